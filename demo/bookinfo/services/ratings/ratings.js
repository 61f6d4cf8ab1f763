'use strict';
// Bookinfo's stars of a book: Node.js, answers by itself (no call out).

const http = require('http');

const server = http.createServer((request, response) => {
  const [, first, , noun, id] = request.url.split('/');
  response.setHeader('Content-Type', 'application/json');
  if (first === 'healthz') {
    response.end('{"ready":true}');
  } else if (noun === 'ratings') {
    response.end(JSON.stringify({ id: Number(id), ratings: { Reviewer1: 5, Reviewer2: 4 } }));
  } else {
    response.statusCode = 404;
    response.end('{"error":"no such ratings"}');
  }
});

// Longer than any pause of the demo: a server that closes a kept connection races with the next request on it.
server.keepAliveTimeout = 600000;
server.listen(9080, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
