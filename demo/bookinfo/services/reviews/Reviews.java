import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/**
 * Bookinfo's reviews of a book: the JDK's own HTTP server with a pool of platform threads; each request asks ratings with the
 * JDK's blocking client. Connections and addresses are not kept (http.keepAlive, sun.net.inetaddr.ttl on the command line), so
 * each call begins with a look-up of the name. With BOOKINFO_FORWARD=1 it hands X-Request-ID on, as Istio's own sample does.
 */
public final class Reviews {
    private static final int THREADS = 16;
    private static final int TIMEOUT_MS = 10_000;
    private static final boolean FORWARD = "1".equals(System.getenv("BOOKINFO_FORWARD"));
    private static final boolean TAG = "1".equals(System.getenv("BOOKINFO_TAG")); // names looked up carry the request's id

    private Reviews() {}

    public static void main(String[] args) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 9080), 128);
        server.createContext("/", Reviews::handle);
        server.setExecutor(Executors.newFixedThreadPool(THREADS));
        server.start();
    }

    private static void handle(HttpExchange exchange) throws IOException {
        String[] path = exchange.getRequestURI().getPath().split("/");
        if (path.length == 2 && path[1].equals("healthz")) {
            answer(exchange, 200, "{\"ready\":true}");
        } else if (path.length == 5 && path[3].equals("reviews")) {
            try {
                String ratings = ratings(path[2], path[4], exchange.getRequestHeaders());
                answer(exchange, 200, "{\"reviews\":[\"An extremely entertaining play.\"],\"ratings\":" + ratings + "}");
            } catch (IOException e) {
                e.printStackTrace();
                answer(exchange, 502, "{\"error\":\"no ratings\"}");
            }
        } else {
            answer(exchange, 404, "{\"error\":\"no such reviews\"}");
        }
    }

    private static String ratings(String rid, String id, Headers asked) throws IOException {
        URL url = new URL("http://" + (TAG ? rid + "." : "") + "ratings.bookinfo:9080/r/" + rid + "/ratings/" + id);
        HttpURLConnection connection = (HttpURLConnection) url.openConnection();
        connection.setConnectTimeout(TIMEOUT_MS);
        connection.setReadTimeout(TIMEOUT_MS);
        connection.setRequestProperty("User-Agent", asked.getFirst("User-Agent")); // as Istio's own sample does
        if (FORWARD && asked.containsKey("X-Request-ID")) {
            connection.setRequestProperty("X-Request-ID", asked.getFirst("X-Request-ID"));
        }
        try (InputStream body = connection.getInputStream()) {
            return new String(body.readAllBytes(), StandardCharsets.UTF_8);
        }
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
