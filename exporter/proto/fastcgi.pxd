"""The FastCGI parser (nginx, Apache and others to PHP-FPM). See fastcgi.pyx."""

from zerospan.exporter.proto.base cimport ProtoOps

cdef const ProtoOps *fastcgi_ops() noexcept
