-- One cell's data: customers with orders, and what must always be true of them.
--
-- customers.orders, .cents and .digest are kept by place_order alone, in the same transaction as the order. Whoever
-- changes orders in another way (an UPDATE by hand, lost rows, a bad restore) makes them disagree, and /integrity
-- says so, customer by customer. ledger counts the customers the same way, in buckets, so that new customers do not
-- wait for one another.

CREATE SCHEMA shop;

-- One row: which database this is. A database that lost its volume and was made anew has another id.
CREATE TABLE shop.database (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO shop.database DEFAULT VALUES;

CREATE TABLE shop.customers (
    id text PRIMARY KEY,
    home text NOT NULL,                          -- the cell that the customer's data belongs to
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    orders bigint NOT NULL DEFAULT 0,            -- how many orders there must be
    cents bigint NOT NULL DEFAULT 0,             -- what they must add up to
    digest bigint NOT NULL DEFAULT 0             -- the exclusive or of their digests
);

CREATE TABLE shop.orders (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    customer text NOT NULL REFERENCES shop.customers (id),
    idempotency_key text,
    item text NOT NULL,
    cents bigint NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (customer, idempotency_key)
);
CREATE INDEX orders_of_customer ON shop.orders (customer, seq);

CREATE TABLE shop.ledger (bucket int PRIMARY KEY, customers bigint NOT NULL DEFAULT 0);
INSERT INTO shop.ledger (bucket) SELECT generate_series(0, 63);

-- Faults that the cell was told to have. They bear the cell's name, so that a copy of this database that becomes
-- another cell does not inherit them.
CREATE TABLE shop.faults (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    cell text NOT NULL,
    spec jsonb NOT NULL,
    lasts_until text NOT NULL CHECK (lasts_until IN ('restart', 'reset')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz
);

CREATE FUNCTION shop.order_digest(id uuid, customer text, item text, cents bigint, placed_at timestamptz)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('x' || left(md5(id::text || '|' || customer || '|' || item || '|' || cents::text || '|'
                            || (extract(epoch FROM placed_at) * 1000000)::bigint::text), 16))::bit(64)::bigint
$$;

-- Places an order, or finds the one that was placed under the same idempotency key.
CREATE FUNCTION shop.place_order(p_cell text, p_customer text, p_key text, p_item text, p_cents bigint)
RETURNS TABLE (order_id uuid, order_item text, order_cents bigint, order_placed_at timestamptz, home_cell text,
               is_new boolean)
LANGUAGE plpgsql AS $$
DECLARE
    placed shop.orders;
BEGIN
    INSERT INTO shop.customers (id, home) VALUES (p_customer, p_cell) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        UPDATE shop.ledger SET customers = customers + 1 WHERE bucket = abs(hashtext(p_customer) % 64);
    END IF;

    INSERT INTO shop.orders (customer, idempotency_key, item, cents) VALUES (p_customer, p_key, p_item, p_cents)
    ON CONFLICT (customer, idempotency_key) DO NOTHING
    RETURNING * INTO placed;
    is_new := FOUND;

    IF is_new THEN
        UPDATE shop.customers
        SET orders = orders + 1,
            cents = cents + placed.cents,
            digest = digest # shop.order_digest(placed.id, placed.customer, placed.item, placed.cents, placed.placed_at)
        WHERE id = p_customer
        RETURNING home INTO home_cell;
    ELSE
        SELECT * INTO placed FROM shop.orders WHERE customer = p_customer AND idempotency_key = p_key;
        SELECT home INTO home_cell FROM shop.customers WHERE id = p_customer;
    END IF;

    order_id := placed.id;
    order_item := placed.item;
    order_cents := placed.cents;
    order_placed_at := placed.placed_at;
    RETURN NEXT;
END
$$;
