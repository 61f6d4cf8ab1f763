import com.sun.net.httpserver.HttpServer;
import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/**
 * A blocking Java program for the truth harness (kit/truth.py). Argument "pool": the JDK's HTTP server with a pool of
 * threads, a thread a request. Argument "connection": a thread a connection, blocking streams, as old Tomcat.
 */
public final class Threads {
    private static final String UPSTREAM = System.getenv("TRUTH_UPSTREAM");
    private static final byte[] BODY = "java\n".getBytes(StandardCharsets.UTF_8);

    private Threads() {}

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(System.getenv("TRUTH_PORT"));
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        if (arguments[0].equals("connection")) {
            connections(new ServerSocket(port, 1024, loopback));
            return;
        }
        HttpServer server = HttpServer.create(new InetSocketAddress(loopback, port), 1024);
        server.createContext("/t/", exchange -> {
            serve(exchange.getRequestURI().getPath());
            exchange.sendResponseHeaders(200, BODY.length);
            try (OutputStream out = exchange.getResponseBody()) {
                out.write(BODY);
            }
        });
        server.setExecutor(Executors.newFixedThreadPool(64));
        server.start();
    }

    private static void connections(ServerSocket listener) throws IOException {
        while (true) {
            Socket socket = listener.accept();
            new Thread(() -> {
                try (socket) {
                    talk(socket);
                } catch (IOException e) {
                    e.printStackTrace();
                }
            }).start();
        }
    }

    private static void talk(Socket socket) throws IOException {
        socket.setTcpNoDelay(true);
        InputStream in = new BufferedInputStream(socket.getInputStream());
        OutputStream out = socket.getOutputStream();
        byte[] head = ("HTTP/1.1 200 OK\r\nContent-Length: " + BODY.length + "\r\n\r\n").getBytes(StandardCharsets.UTF_8);
        while (true) {
            String first = line(in);
            if (first.isEmpty()) {
                return;
            }
            while (!line(in).isEmpty()) {
            }
            serve(first.split(" ")[1]);
            byte[] answer = new byte[head.length + BODY.length];
            System.arraycopy(head, 0, answer, 0, head.length);
            System.arraycopy(BODY, 0, answer, head.length, BODY.length);
            out.write(answer);
        }
    }

    private static String line(InputStream in) throws IOException {
        StringBuilder text = new StringBuilder();
        for (int c = in.read(); c >= 0 && c != '\n'; c = in.read()) {
            if (c != '\r') {
                text.append((char) c);
            }
        }
        return text.toString();
    }

    private static void serve(String path) throws IOException {
        String[] parts = path.split("/");
        String[] plan = parts[3].split("\\.", 2);
        int count = Integer.parseInt(plan[0]);
        for (int k = 1; k <= count; k++) {
            ask("/t/" + parts[2] + "." + k + "/" + (plan.length > 1 ? plan[1] : "0") + "/" + parts[4]);
        }
        if (count == 0) {
            try {
                Thread.sleep(Integer.parseInt(parts[4]));
            } catch (InterruptedException e) {
                throw new IOException(e);
            }
        }
    }

    private static void ask(String path) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) URI.create(UPSTREAM + path).toURL().openConnection();
        try (InputStream in = connection.getInputStream()) {
            in.readAllBytes();
        }
    }
}
