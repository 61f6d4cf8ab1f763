-- The shop's tables and the two services' roles: catalog signs in by SCRAM, pricing by MD5.
SET password_encryption = 'scram-sha-256';
CREATE ROLE catalog LOGIN PASSWORD 'catalog';
SET password_encryption = 'md5';
CREATE ROLE pricing LOGIN PASSWORD 'pricing';
CREATE DATABASE shop;
\connect shop
CREATE TABLE products (id integer PRIMARY KEY, name text NOT NULL, stock integer NOT NULL);
CREATE TABLE prices (product_id integer PRIMARY KEY REFERENCES products, cents integer NOT NULL);
CREATE TABLE orders (
    id bigserial PRIMARY KEY, request text NOT NULL, product_id integer NOT NULL REFERENCES products,
    quantity integer NOT NULL, cents integer NOT NULL, placed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO products SELECT n, 'product ' || n, 1000000 FROM generate_series(1, 100) AS n;
INSERT INTO prices SELECT n, 100 + n * 37 FROM generate_series(1, 100) AS n;
GRANT SELECT, UPDATE ON products TO catalog;
GRANT SELECT ON products, prices TO pricing;
GRANT SELECT, INSERT ON orders TO pricing;
GRANT USAGE ON SEQUENCE orders_id_seq TO pricing;
