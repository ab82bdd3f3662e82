-- One cell's data: customers with orders, and what must always be true of them.
--
-- customers.orders, .cents and .digest are kept by place_order alone, in the same transaction as the order. Whoever
-- changes orders in another way (an UPDATE by hand, lost rows, a bad restore) makes them disagree, and /integrity
-- says so, customer by customer. ledger counts the customers the same way, slot by slot.
--
-- Customers can be copied to another cell's database (shop-data, in the image of PostgreSQL). What that needs here is
-- at the end: write_stops, which no version of the web app can forget, and the record of what arrived.

CREATE SCHEMA shop;

-- One row: which database this is. A database that lost its volume and was made anew has another id.
CREATE TABLE shop.database (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO shop.database DEFAULT VALUES;

-- The slot by which routers find a customer's cell: the first four bytes of the key's MD5, big-endian, modulo the
-- number of slots. Here they are 16384, the most that a router has; a router with a smaller power of two sees some of
-- these as one.
CREATE FUNCTION shop.slot_of(customer text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (('x' || left(md5(customer), 8))::bit(32)::bigint % 16384)::int
$$;

CREATE TABLE shop.customers (
    id text PRIMARY KEY,
    slot int NOT NULL GENERATED ALWAYS AS (shop.slot_of(id)) STORED,
    home text NOT NULL,                          -- the cell that the customer's data belongs to
    moves int NOT NULL DEFAULT 0,                -- how often the data came to another cell: the higher is the newer
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    orders bigint NOT NULL DEFAULT 0,            -- how many orders there must be
    cents bigint NOT NULL DEFAULT 0,             -- what they must add up to
    digest bigint NOT NULL DEFAULT 0             -- the exclusive or of their digests
);
CREATE INDEX customers_of_slot ON shop.customers (slot);

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

CREATE TABLE shop.ledger (slot int PRIMARY KEY, customers bigint NOT NULL);

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
               home_moves int, is_new boolean)
LANGUAGE plpgsql AS $$
DECLARE
    placed shop.orders;
BEGIN
    INSERT INTO shop.customers (id, home) VALUES (p_customer, p_cell) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO shop.ledger AS l (slot, customers) VALUES (shop.slot_of(p_customer), 1)
        ON CONFLICT (slot) DO UPDATE SET customers = l.customers + 1;
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
        RETURNING home, moves INTO home_cell, home_moves;
    ELSE
        SELECT * INTO placed FROM shop.orders WHERE customer = p_customer AND idempotency_key = p_key;
        SELECT home, moves INTO home_cell, home_moves FROM shop.customers WHERE id = p_customer;
    END IF;

    order_id := placed.id;
    order_item := placed.item;
    order_cents := placed.cents;
    order_placed_at := placed.placed_at;
    RETURN NEXT;
END
$$;

-- Each customer's orders as they are, beside what they must be.
CREATE VIEW shop.compared AS
SELECT c.id, c.slot, c.orders AS expected, coalesce(f.orders, 0) AS found,
       c.orders <> coalesce(f.orders, 0) AS miscounted,
       c.cents <> coalesce(f.cents, 0) OR c.digest <> coalesce(f.digest, 0) AS altered
FROM shop.customers c
LEFT JOIN (
    SELECT customer, count(*) AS orders, sum(cents) AS cents,
           bit_xor(shop.order_digest(id, customer, item, cents, placed_at)) AS digest
    FROM shop.orders GROUP BY customer
) f ON f.customer = c.id;

-- Slots whose customers may not be written to here any more, because they are being copied, or were, to another cell.
CREATE TABLE shop.write_stops (
    slot int PRIMARY KEY,
    moved_to text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whoever writes holds the slot's lock, shared, until the end of the transaction; whoever stops a slot takes it alone
-- (7304552 is its name). So a stop that is committed has no write before it still under way, and none comes after it.
-- The look after the lock must see what was committed meanwhile, which it does in isolation READ COMMITTED alone.
CREATE FUNCTION shop.ensure_writable(customer text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    stop shop.write_stops;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'customers are written to in isolation READ COMMITTED only';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(7304552, shop.slot_of(customer));
    SELECT * INTO stop FROM shop.write_stops WHERE slot = shop.slot_of(customer);
    IF FOUND THEN
        RAISE EXCEPTION 'customer % moves to %', customer, stop.moved_to USING ERRCODE = 'SW001';
    END IF;
END
$$;

CREATE FUNCTION shop.ensure_order_writable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM shop.ensure_writable(coalesce(NEW.customer, OLD.customer));
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE FUNCTION shop.ensure_customer_writable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM shop.ensure_writable(coalesce(NEW.id, OLD.id));
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER writable BEFORE INSERT OR UPDATE OR DELETE ON shop.orders
FOR EACH ROW EXECUTE FUNCTION shop.ensure_order_writable();
CREATE TRIGGER writable BEFORE INSERT OR UPDATE OR DELETE ON shop.customers
FOR EACH ROW EXECUTE FUNCTION shop.ensure_customer_writable();

-- Migrations to this cell that may have stopped writes at their source: whoever abandons one knows whom to ask.
CREATE TABLE shop.migrations (source text, slot int, PRIMARY KEY (source, slot));

-- Stops the writes of some slots' customers for good. When it is committed, none is under way.
CREATE FUNCTION shop.stop_writes(p_slots int[], p_target text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    other shop.write_stops;
BEGIN
    PERFORM pg_advisory_xact_lock(7304552, slot) FROM unnest(p_slots) AS slot;
    SELECT * INTO other FROM shop.write_stops WHERE slot = ANY (p_slots) AND moved_to <> p_target LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'slot % moves, or moved, to % already: abandon that first', other.slot, other.moved_to;
    END IF;
    INSERT INTO shop.write_stops (slot, moved_to) SELECT slot, p_target FROM unnest(p_slots) AS slot
    ON CONFLICT DO NOTHING;
    -- What came here before in these slots was no step back from; it goes on now.
    DELETE FROM shop.migrations WHERE slot = ANY (p_slots);
END
$$;

-- Customers that came as a copy, and as what: a copy that is repeated, even after new orders here, changes nothing.
CREATE TABLE shop.arrivals (
    customer text PRIMARY KEY,
    source text NOT NULL,
    moves int NOT NULL,
    orders bigint NOT NULL,
    cents bigint NOT NULL,
    digest bigint NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
