import java.io.IOException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;

/**
 * The connections of one thread and what is asked of them. PostgreSQL through the JDBC driver: prepared statements (extended
 * query), named on the server from their third use on, sslmode=prefer (an SSLRequest that this server refuses).
 */
final class Stores {
    private static final boolean TAG = "1".equals(System.getenv("SHOP_TAG"));
    private static final String PRICE = "SELECT cents FROM prices WHERE product_id = ?";
    private static final String FAULT = "SELECT cents / (product_id - ?) FROM prices WHERE product_id = ?";
    private static final String ORDER =
        "INSERT INTO orders (request, product_id, quantity, cents)"
            + " SELECT ?, product_id, ?, cents FROM prices WHERE product_id = ? RETURNING id, cents";

    private final Connection sql;
    private final Redis redis;
    private final PreparedStatement price;
    private final PreparedStatement fault;
    private final PreparedStatement order;

    Stores() throws IOException, SQLException {
        sql = DriverManager.getConnection(
            "jdbc:postgresql://" + Pricing.setting("SHOP_PG_HOST") + ":" + System.getenv("SHOP_PG_PORT") + "/shop?sslmode=prefer&prepareThreshold=3",
            "pricing", "pricing");
        redis = new Redis(Pricing.setting("SHOP_REDIS_HOST"), Integer.parseInt(System.getenv("SHOP_REDIS_PORT")));
        price = sql.prepareStatement(PRICE);
        fault = sql.prepareStatement(FAULT);
        order = sql.prepareStatement(ORDER);
    }

    /** One Redis GET (a discount in per cent, mostly absent) and one SELECT. */
    String price(String rid, int item) throws IOException, SQLException {
        Object discount = redis.command("GET", key("discount:" + item, rid));
        PreparedStatement query = statement(price, PRICE, rid);
        query.setInt(1, item);
        try (ResultSet rows = query.executeQuery()) {
            rows.next();
            int cents = rows.getInt(1);
            return "{\"cents\":" + (discount == null ? cents : cents * (100 - Integer.parseInt((String) discount)) / 100) + "}";
        }
    }

    /** One SELECT that PostgreSQL refuses with SQLSTATE 22012, division by zero. */
    String fault(String rid, int item) throws SQLException {
        PreparedStatement query = statement(fault, FAULT, rid);
        query.setInt(1, item);
        query.setInt(2, item);
        try (ResultSet rows = query.executeQuery()) {
            return "{\"rows\":" + rows.next() + "}";
        }
    }

    /** One INSERT and one Redis INCR. */
    String order(String rid, int item, int quantity) throws IOException, SQLException {
        PreparedStatement query = statement(order, ORDER, rid);
        query.setString(1, rid);
        query.setInt(2, quantity);
        query.setInt(3, item);
        long id;
        long cents;
        try (ResultSet rows = query.executeQuery()) {
            rows.next();
            id = rows.getLong(1);
            cents = rows.getLong(2) * quantity;
        }
        Object placed = redis.command("INCR", key("orders:placed", rid));
        return "{\"order\":" + id + ",\"cents\":" + cents + ",\"placed\":" + placed + "}";
    }

    /** The statement as prepared, or, where statements carry the request id, a new one that is closed with its result. */
    private PreparedStatement statement(PreparedStatement prepared, String text, String rid) throws SQLException {
        if (!TAG) {
            return prepared;
        }
        PreparedStatement tagged = sql.prepareStatement(text + " /* " + rid + " */");
        tagged.closeOnCompletion();
        return tagged;
    }

    private static String key(String name, String rid) {
        return TAG ? name + ":" + rid : name;
    }
}
