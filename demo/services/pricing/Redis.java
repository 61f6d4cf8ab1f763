import java.io.BufferedInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/** One Redis connection for one thread: blocking, RESP3 (HELLO 3), one command at a time. */
final class Redis implements AutoCloseable {
    private final Socket socket;
    private final InputStream in;
    private final OutputStream out;

    Redis(String host, int port) throws IOException {
        socket = new Socket(host, port);
        socket.setTcpNoDelay(true);
        in = new BufferedInputStream(socket.getInputStream());
        out = socket.getOutputStream();
        command("HELLO", "3");
    }

    /** Sends one command and waits for its reply: null, a Long, a String, or an Object[] for aggregates. */
    Object command(String... words) throws IOException {
        StringBuilder text = new StringBuilder("*" + words.length + "\r\n");
        for (String word : words) {
            text.append('$').append(word.getBytes(StandardCharsets.UTF_8).length).append("\r\n").append(word).append("\r\n");
        }
        out.write(text.toString().getBytes(StandardCharsets.UTF_8));
        out.flush();
        return reply();
    }

    private Object reply() throws IOException {
        String line = line();
        String rest = line.substring(1);
        switch (line.charAt(0)) {
            case '+':
                return rest;
            case '-':
                throw new IOException("Redis: " + rest);
            case ':':
                return Long.valueOf(rest);
            case '_':
                return null;
            case '$':
                byte[] bytes = in.readNBytes(Integer.parseInt(rest));
                line();
                return new String(bytes, StandardCharsets.UTF_8);
            case '*':
                return replies(Integer.parseInt(rest));
            case '%':
                return replies(2 * Integer.parseInt(rest));
            default:
                throw new IOException("Redis: a reply of a type that this client does not know: " + line);
        }
    }

    private Object[] replies(int count) throws IOException {
        Object[] items = new Object[count];
        for (int i = 0; i < count; i++) {
            items[i] = reply();
        }
        return items;
    }

    private String line() throws IOException {
        StringBuilder text = new StringBuilder();
        for (int c = in.read(); c != '\r'; c = in.read()) {
            if (c < 0) {
                throw new EOFException("Redis closed the connection");
            }
            text.append((char) c);
        }
        in.read();
        return text.toString();
    }

    @Override
    public void close() throws IOException {
        socket.close();
    }
}
