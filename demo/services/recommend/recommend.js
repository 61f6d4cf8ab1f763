'use strict';
// The shop's recommendations: Node.js, answers by itself (no call out), in chunks. Settings: SHOP_PORT, SHOP_BIND.

const http = require('http');

const similar = (item) => [1, 2, 3].map((step) => ((item * 7 + step * 11) % 100) + 1);

const server = http.createServer((request, response) => {
  const [, first, , noun, id] = request.url.split('/');
  response.setHeader('Content-Type', 'application/json');
  if (first === 'healthz') {
    response.end('{"ready":true}');
  } else if (noun === 'similar') {
    response.write('{"similar":');
    response.end(JSON.stringify(similar(Number(id))) + '}');
  } else {
    response.statusCode = 404;
    response.end('{"error":"no such recommendation"}');
  }
});

// Longer than any pause of the demo: a server that closes a kept connection races with the next request on it.
server.keepAliveTimeout = 600000;
server.listen(Number(process.env.SHOP_PORT), process.env.SHOP_BIND || '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
