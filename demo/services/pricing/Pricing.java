import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.sql.SQLException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The shop's prices and orders: the JDK's own HTTP server with a fixed pool of platform threads. Each thread owns one
 * PostgreSQL and one Redis connection, opened before the port is. Settings: SHOP_PORT, SHOP_PG_PORT, SHOP_REDIS_PORT, SHOP_TAG;
 * elsewhere than on loopback SHOP_BIND, SHOP_PG_HOST, SHOP_REDIS_HOST.
 */
public final class Pricing {
    private static final int THREADS = 8;
    private static final ThreadLocal<Stores> STORES = new ThreadLocal<>();
    private static final CountDownLatch READY = new CountDownLatch(THREADS);

    private Pricing() {}

    /** Opens every thread's connections, then the port. */
    public static void main(String[] args) throws Exception {
        ThreadPoolExecutor pool = new ThreadPoolExecutor(
            THREADS, THREADS, 0, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), Pricing::thread);
        pool.prestartAllCoreThreads();
        READY.await();
        InetSocketAddress address =
            new InetSocketAddress(InetAddress.getByName(setting("SHOP_BIND")), Integer.parseInt(System.getenv("SHOP_PORT")));
        HttpServer server = HttpServer.create(address, 128);
        server.createContext("/", Pricing::handle);
        server.setExecutor(pool);
        server.start();
    }

    /** An address from the environment, loopback if it is not there. */
    static String setting(String name) {
        return System.getenv().getOrDefault(name, "127.0.0.1");
    }

    private static Thread thread(Runnable work) {
        return new Thread(() -> {
            try {
                STORES.set(new Stores());
            } catch (IOException | SQLException e) {
                e.printStackTrace();
                System.exit(1);
            }
            READY.countDown();
            work.run();
        }, "pricing-worker");
    }

    private static void handle(HttpExchange exchange) throws IOException {
        String[] path = exchange.getRequestURI().getPath().split("/");
        try {
            if (path.length == 2 && path[1].equals("healthz")) {
                answer(exchange, 200, "{\"ready\":true}");
            } else if (path.length == 5 && path[3].equals("prices")) {
                answer(exchange, 200, STORES.get().price(path[2], Integer.parseInt(path[4])));
            } else if (path.length == 5 && path[3].equals("faults")) {
                answer(exchange, 200, STORES.get().fault(path[2], Integer.parseInt(path[4])));
            } else if (path.length == 4 && path[3].equals("orders")) {
                String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
                answer(exchange, 201, STORES.get().order(path[2], number(body, "item"), number(body, "quantity")));
            } else {
                answer(exchange, 404, "{\"error\":\"no such price\"}");
            }
        } catch (SQLException e) {
            answer(exchange, 500, "{\"error\":\"SQLSTATE " + e.getSQLState() + "\"}");
        } catch (NumberFormatException e) {
            answer(exchange, 400, "{\"error\":\"a number was expected\"}");
        }
    }

    private static int number(String json, String name) {
        Matcher found = Pattern.compile("\"" + name + "\"\\s*:\\s*(\\d+)").matcher(json);
        if (!found.find()) {
            throw new NumberFormatException(name);
        }
        return Integer.parseInt(found.group(1));
    }

    private static void answer(HttpExchange exchange, int status, String json) throws IOException {
        byte[] bytes = json.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, bytes.length);
        try (OutputStream out = exchange.getResponseBody()) {
            out.write(bytes);
        }
    }
}
