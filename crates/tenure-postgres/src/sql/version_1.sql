-- The tables and functions of tenure, version 1. See docs/engines/postgres.md.
-- Each verb is one function. Where a hold is alone in its line, it lies in its key's row, and a verb of it is one
-- update of that row. Otherwise a verb locks the key's row, then reads the clock, acts, and tells whom it enables.
-- Only the functions that clients call set the search path; the others are called by those, or need none.

CREATE TABLE tenure_schema (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL,
  -- The highest token of all keys that were swept away: a key that comes back begins above it.
  forgotten bigint NOT NULL DEFAULT 0
);

CREATE TABLE tenure_keys (
  key text COLLATE "C" PRIMARY KEY,
  last_token bigint NOT NULL DEFAULT 0,
  -- Never later than the first deadline of the key, in microseconds since 1970.
  next_us bigint NOT NULL DEFAULT 9223372036854775807,
  tombstones boolean NOT NULL DEFAULT false,
  -- Whether the key may have rows in tenure_places. Never while a hold lies here.
  line boolean NOT NULL DEFAULT false,
  -- Up to here, tokens may have been given out and forgotten in a crash: this was on the disk before the first of them
  -- was given. And the session that need not wait for the disk again up to here. 0: none were.
  reserve bigint NOT NULL DEFAULT 0,
  reserved_by bigint NOT NULL DEFAULT 0,
  -- A hold that is alone in its line, as tenure_places has it; none when `claim` is NULL. It is the first to have come,
  -- its permit is 0, and its spare tokens go up to last_token.
  claim text COLLATE "C",
  mode text COLLATE "C",
  lim bigint,
  term_us bigint,
  spare bigint,
  floor bigint,
  ends_us bigint,
  token bigint,
  since_us bigint,
  channel text,
  identity text,
  session bigint
) WITH (fillfactor = 60);

CREATE TABLE tenure_places (
  key text COLLATE "C" NOT NULL,
  -- The order of arrival.
  seq bigint NOT NULL,
  claim text COLLATE "C" NOT NULL,
  mode text COLLATE "C" NOT NULL CHECK (mode IN ('x', 's', 'p')),
  lim bigint NOT NULL,
  term_us bigint NOT NULL,
  spare bigint NOT NULL,
  floor bigint NOT NULL,
  state text COLLATE "C" NOT NULL CHECK (state IN ('waits', 'offered', 'holds')),
  ends_us bigint NOT NULL,
  token bigint NOT NULL,
  spare_granted bigint NOT NULL,
  slot bigint NOT NULL,
  since_us bigint NOT NULL,
  channel text NOT NULL,
  identity text NOT NULL,
  -- The session that a hold lasts as long as: the number of an advisory lock of its connection. 0: it ends by lease.
  session bigint NOT NULL,
  -- Whether a transaction of its holder may have pinned it in the key's row, where it was before.
  at_key boolean NOT NULL DEFAULT false,
  PRIMARY KEY (key, claim),
  UNIQUE (key, seq)
) WITH (fillfactor = 60);

CREATE TABLE tenure_tombstones (
  key text COLLATE "C" NOT NULL,
  claim text COLLATE "C" NOT NULL,
  evicted boolean NOT NULL,
  ends_us bigint NOT NULL,
  PRIMARY KEY (key, claim)
);

CREATE FUNCTION tenure_now() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- Whether a session lives: the server drops its lock with its connection. It is somebody else's when we cannot share
-- it. When we can, it is nobody's or our own. Nothing is kept of what we share, not even to the end of the transaction:
-- who lists many keys asks of many sessions.
CREATE FUNCTION tenure_alive(number bigint) RETURNS boolean LANGUAGE sql VOLATILE AS $$
  SELECT CASE
    WHEN NOT pg_try_advisory_lock_shared(number) THEN true
    WHEN pg_advisory_unlock_shared(number) THEN EXISTS (SELECT FROM pg_catalog.pg_locks l
      WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.mode = 'ExclusiveLock'
        AND l.classid = ((number >> 32) & 4294967295)::oid AND l.objid = (number & 4294967295)::oid
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))
    END
$$;

-- Whether a place is there no more. Who calls it has set the search path.
CREATE FUNCTION tenure_is_dead(p tenure_places, now_us bigint) RETURNS boolean LANGUAGE sql VOLATILE AS $$
  SELECT CASE WHEN p.session = 0 OR p.state <> 'holds' THEN p.ends_us <= now_us ELSE NOT tenure_alive(p.session) END
$$;

-- When to look whether a place is dead: of one that a session keeps, always.
CREATE FUNCTION tenure_due(number bigint, state text, ends bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN number = 0 OR state <> 'holds' THEN ends ELSE 0 END
$$;

-- What every verb begins with. The time.
CREATE FUNCTION tenure_begin(under bigint, wait_ms integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  told text;
BEGIN
  IF under <> 0 THEN
    -- The session that the verb names must be that of the process that runs it. A session has its lock twice: it gives
    -- one back, which only its owner can, and takes it again at once. It is never free meanwhile.
    IF NOT (CASE WHEN pg_advisory_unlock(under) THEN pg_try_advisory_lock(under) ELSE false END) THEN
      RAISE EXCEPTION USING ERRCODE = 'TN002', MESSAGE = 'this process has not the lock of the session';
    END IF;
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION USING ERRCODE = 'TN001', MESSAGE = 'verbs run at read committed only';
  END IF;
  -- What is answered is on the disk, and on the standbys that the server waits for, whatever the role's defaults say.
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
    told := set_config('synchronous_commit', 'on', true);
  END IF;
  told := set_config('lock_timeout', wait_ms || 'ms', true);
  RETURN tenure_now();
END $$;

-- For the grant and the release of a hold that is alone and of a session: neither outlives a crash of the server, so
-- they need not wait for the disk. The tokens are not above the reserve, which is there already. A renewal does wait: a
-- server that is cut off from the standby it waits for keeps no hold alive.
CREATE FUNCTION tenure_hasten() RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT set_config('synchronous_commit', 'off', true) $$;

-- Whether no transaction has pinned the hold that lies, or lay, in the key's row. Then none can before ours has ended.
CREATE FUNCTION tenure_unpinned(k text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM tenure_keys t WHERE t.key = k FOR UPDATE SKIP LOCKED;
  RETURN FOUND;
END $$;

-- Moves the hold that is in the key's row into the line, where others may join it.
CREATE FUNCTION tenure_unfold(k text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  pinned boolean := NOT tenure_unpinned(k);
BEGIN
  INSERT INTO tenure_places
    SELECT t.key, 1, t.claim, t.mode, t.lim, t.term_us, t.spare, t.floor, 'holds', t.ends_us, t.token,
      t.last_token - t.token, 0, t.since_us, t.channel, t.identity, t.session, pinned
    FROM tenure_keys t WHERE t.key = k;
  UPDATE tenure_keys t SET claim = NULL, line = true,
    next_us = least(t.next_us, tenure_due(t.session, 'holds', t.ends_us)) WHERE t.key = k;
END $$;

-- Locks the key, reads the clock, drops what is dead. `known` is false when there is no such key and none is made:
-- then nothing is locked, and nothing can be in its line. Tokens up to `reserved` may have been given out and forgotten
-- when the server crashed: those that are given out by a verb which enters are above.
CREATE FUNCTION tenure_enter(k text, make boolean,
  OUT known boolean, OUT last bigint, OUT reserved bigint, OUT graves boolean, OUT now_us bigint,
  OUT buried boolean)
LANGUAGE plpgsql AS $$
DECLARE
  next bigint;
  alone text;
BEGIN
  buried := false;
  FOR tries IN 1..100 LOOP
    -- Transactions that have pinned a hold in this row do not keep us out.
    SELECT t.last_token, t.tombstones, t.next_us, t.claim, t.reserve INTO last, graves, next, alone, reserved
      FROM tenure_keys t WHERE t.key = k FOR NO KEY UPDATE;
    known := FOUND;
    EXIT WHEN known OR NOT make;
    INSERT INTO tenure_keys (key) VALUES (k) ON CONFLICT DO NOTHING;
  END LOOP;
  now_us := tenure_now();
  IF NOT known THEN
    RETURN;
  END IF;
  IF last = 0 THEN
    SELECT s.forgotten INTO STRICT last FROM tenure_schema s;
  END IF;
  IF alone IS NOT NULL THEN
    PERFORM tenure_unfold(k);
    SELECT t.next_us INTO next FROM tenure_keys t WHERE t.key = k;
  END IF;
  IF now_us >= next THEN
    -- A place that a transaction of its holder has pinned stays until that transaction has ended.
    WITH dead AS (
      SELECT p.claim FROM tenure_places p
        WHERE p.key = k AND tenure_is_dead(p, now_us) AND CASE WHEN p.at_key THEN tenure_unpinned(k) ELSE true END
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM tenure_places p USING dead WHERE p.key = k AND p.claim = dead.claim;
    buried := FOUND;
    IF graves THEN
      DELETE FROM tenure_tombstones t WHERE t.key = k AND t.ends_us <= now_us;
    END IF;
    SELECT min(t.ends_us), count(*) > 0 INTO next, graves FROM tenure_tombstones t WHERE t.key = k;
    SELECT least(next, min(tenure_due(p.session, p.state, p.ends_us))) INTO next FROM tenure_places p WHERE p.key = k;
    UPDATE tenure_keys t SET next_us = coalesce(next, 9223372036854775807), tombstones = graves WHERE t.key = k;
  END IF;
END $$;

-- The next tokens by the hybrid rule: above the last and the floor, not below the clock, below 2^53. None at the end of
-- the range.
CREATE FUNCTION tenure_tokens(last bigint, floor bigint, want bigint, now_us bigint, OUT first bigint, OUT spare bigint)
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  first := greatest(greatest(last, floor) + 1, least(now_us, 9007199254740991));
  IF first > 9007199254740991 THEN
    first := NULL;
  ELSE
    spare := least(want, greatest(0, least(now_us + 100000, 9007199254740991) - first));
  END IF;
END $$;

-- The lowest permit that no granted place has.
CREATE FUNCTION tenure_free_slot(k text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  free bigint := 0;
  taken bigint;
BEGIN
  FOR taken IN SELECT p.slot FROM tenure_places p WHERE p.key = k AND p.state <> 'waits' ORDER BY p.slot LOOP
    EXIT WHEN taken > free;
    free := taken + 1;
  END LOOP;
  RETURN free;
END $$;

-- Offers the key to everybody whom the rule grants and who has no token. All but `mine` are told.
CREATE FUNCTION tenure_promote(k text, now_us bigint, mine text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  w tenure_places;
  after bigint := -1;
  head text;
  last bigint;
  first bigint;
  extra bigint;
  permit bigint;
  ends bigint := now_us + 3000000;
BEGIN
  LOOP
    SELECT p.* INTO w FROM tenure_places p
      WHERE p.key = k AND p.seq > after AND p.state = 'waits' ORDER BY p.seq LIMIT 1;
    EXIT WHEN NOT FOUND;
    -- All before it are granted, so they are of one mode.
    SELECT p.mode INTO head FROM tenure_places p WHERE p.key = k AND p.seq < w.seq ORDER BY p.seq LIMIT 1;
    IF FOUND THEN
      EXIT WHEN w.mode = 'x' OR w.mode <> head;
      EXIT WHEN w.mode = 'p'
        AND (SELECT count(*) FROM tenure_places p WHERE p.key = k AND p.seq < w.seq) >= w.lim;
    END IF;
    SELECT greatest(t.last_token, t.reserve) INTO last FROM tenure_keys t WHERE t.key = k;
    SELECT t.first, t.spare INTO first, extra FROM tenure_tokens(last, w.floor, w.spare, now_us) t;
    EXIT WHEN first IS NULL;
    permit := CASE WHEN w.mode = 'p' THEN tenure_free_slot(k) ELSE 0 END;
    UPDATE tenure_places p SET state = 'offered', ends_us = ends, token = first, spare_granted = extra,
      slot = permit, since_us = now_us WHERE p.key = k AND p.claim = w.claim;
    UPDATE tenure_keys t SET last_token = first + extra, next_us = least(t.next_us, ends)
      WHERE t.key = k;
    IF w.claim IS DISTINCT FROM mine AND w.channel <> '' THEN
      PERFORM pg_notify(w.channel, concat_ws(' ', w.claim, first, extra, permit));
    END IF;
    after := w.seq;
  END LOOP;
END $$;

CREATE FUNCTION tenure_keep(k text, ends bigint) RETURNS void
LANGUAGE sql AS
$$ UPDATE tenure_keys SET next_us = ends WHERE key = k AND next_us > ends $$;

CREATE FUNCTION tenure_gone(k text, me text) RETURNS text
LANGUAGE sql AS $$
  SELECT me || ' gone ' || coalesce(
    (SELECT CASE WHEN t.evicted THEN 'evicted' ELSE 'withdrawn' END
       FROM tenure_tombstones t WHERE t.key = k AND t.claim = me), 'absent')
$$;

CREATE FUNCTION tenure_entomb(k text, me text, operator boolean, ends bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tenure_tombstones AS t (key, claim, evicted, ends_us) VALUES (k, me, operator, ends)
    ON CONFLICT (key, claim) DO UPDATE SET ends_us = greatest(t.ends_us, excluded.ends_us);
  UPDATE tenure_keys t SET tombstones = true, next_us = least(t.next_us, ends) WHERE t.key = k;
END $$;

-- Takes a claim out of the line. One that a transaction of its holder has pinned ends now, and leaves with the
-- transaction.
CREATE FUNCTION tenure_remove(k text, me text, now_us bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  was text;
BEGIN
  SELECT p.state INTO was FROM tenure_places p
    WHERE p.key = k AND p.claim = me AND CASE WHEN p.at_key THEN tenure_unpinned(k) ELSE true END
    FOR UPDATE SKIP LOCKED;
  IF FOUND THEN
    DELETE FROM tenure_places p WHERE p.key = k AND p.claim = me;
  ELSE
    UPDATE tenure_places p SET ends_us = now_us, session = 0
      WHERE p.key = k AND p.claim = me AND NOT tenure_is_dead(p, now_us) RETURNING p.state INTO was;
    IF NOT FOUND THEN
      RETURN 'absent';
    END IF;
    PERFORM tenure_keep(k, now_us);
  END IF;
  RETURN CASE WHEN was = 'waits' THEN 'waited' ELSE 'held' END;
END $$;

CREATE FUNCTION tenure_attempt(k text, me text, want text, want_lim bigint, want_term bigint, want_spare bigint,
  want_floor bigint, leave boolean, listens text, who text, under bigint, wait_ms integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  now_us bigint := tenure_begin(under, wait_ms);
  told text;
  lowest bigint := greatest(want_floor + 1, least(now_us, 9007199254740991));
  highest bigint := least(now_us + 100000, 9007199254740991);
  e record;
  mine tenure_places;
  n bigint;
  waits bigint;
  top bigint;
  head text;
  agreed bigint;
  soon bigint;
  first bigint;
  extra bigint;
  slot bigint;
  ends bigint;
BEGIN
  -- The key is free and nobody waits. Nothing is judged by the clock, so it may be older than the lock of the row.
  UPDATE tenure_keys t SET
      claim = me, mode = want, lim = want_lim, term_us = want_term, spare = want_spare, floor = want_floor,
      ends_us = now_us + want_term, since_us = now_us, channel = listens, identity = who, session = under,
      token = greatest(t.last_token + 1, lowest),
      last_token = greatest(t.last_token + 1, lowest)
        + least(want_spare, greatest(0, highest - greatest(t.last_token + 1, lowest)))
    WHERE t.key = k AND t.claim IS NULL AND NOT t.line AND NOT t.tombstones AND t.last_token > 0
      AND greatest(t.last_token + 1, lowest) <= 9007199254740991
      AND CASE WHEN under = 0 THEN t.reserve <= t.last_token ELSE
        t.reserved_by = under AND greatest(t.last_token + 1, lowest) + want_spare <= t.reserve END
    RETURNING t.token, t.last_token - t.token INTO first, extra;
  IF FOUND THEN
    IF under <> 0 THEN
      told := tenure_hasten();
    END IF;
    RETURN concat_ws(' ', me, 'granted', first, extra, 0);
  END IF;
  SELECT * INTO e FROM tenure_enter(k, true);
  SELECT p.* INTO mine FROM tenure_places p WHERE p.key = k AND p.claim = me;
  IF FOUND AND mine.session <> under AND mine.state <> 'waits' THEN
    -- What another session was granted is not taken over: the claim begins anew.
    PERFORM tenure_remove(k, me, e.now_us);
    e.buried := true;
    SELECT p.* INTO mine FROM tenure_places p WHERE p.key = k AND p.claim = me;
  END IF;
  IF FOUND THEN
    IF e.buried THEN
      PERFORM tenure_promote(k, e.now_us, me);
      SELECT p.* INTO STRICT mine FROM tenure_places p WHERE p.key = k AND p.claim = me;
    END IF;
    IF tenure_is_dead(mine, e.now_us) THEN
      RETURN tenure_gone(k, me);
    END IF;
    IF mine.state <> 'waits' THEN
      ends := e.now_us + want_term;
      UPDATE tenure_places p SET state = 'holds', ends_us = ends, session = under WHERE p.key = k AND p.claim = me;
      PERFORM tenure_keep(k, tenure_due(under, 'holds', ends));
      RETURN concat_ws(' ', me, 'granted', mine.token, mine.spare_granted, mine.slot);
    END IF;
    ends := e.now_us + 3000000;
    UPDATE tenure_places p SET ends_us = ends, channel = listens, session = under WHERE p.key = k AND p.claim = me;
    PERFORM tenure_keep(k, ends);
    SELECT count(*), min(p.ends_us) FILTER (WHERE tenure_due(p.session, p.state, 1) > 0) INTO n, soon
      FROM tenure_places p WHERE p.key = k AND p.seq < mine.seq;
    SELECT t.last_token INTO e.last FROM tenure_keys t WHERE t.key = k;
    RETURN concat_ws(' ', me, 'waiting', n, tenure_look_in(soon, e.now_us), e.last);
  END IF;
  IF e.graves AND EXISTS (SELECT FROM tenure_tombstones t WHERE t.key = k AND t.claim = me) THEN
    IF e.buried THEN
      PERFORM tenure_promote(k, e.now_us, NULL);
    END IF;
    RETURN tenure_gone(k, me);
  END IF;
  IF e.buried THEN
    PERFORM tenure_promote(k, e.now_us, NULL);
    SELECT t.last_token INTO e.last FROM tenure_keys t WHERE t.key = k;
  END IF;
  SELECT count(*), count(*) FILTER (WHERE p.state = 'waits'), max(p.seq), min(p.mode),
      max(p.lim) FILTER (WHERE p.mode = 'p'), min(p.ends_us) FILTER (WHERE tenure_due(p.session, p.state, 1) > 0)
    INTO n, waits, top, head, agreed, soon FROM tenure_places p WHERE p.key = k;
  IF want = 'p' AND agreed <> want_lim THEN
    RETURN concat_ws(' ', me, 'limit', agreed);
  END IF;
  -- Granted places come first and are of one mode. When nobody waits, those are all.
  IF n = 0 OR (waits = 0 AND want = head AND (want = 's' OR (want = 'p' AND n < want_lim))) THEN
    SELECT t.first, t.spare INTO first, extra
      FROM tenure_tokens(greatest(e.last, e.reserved), want_floor, want_spare, e.now_us) t;
    IF first IS NOT NULL THEN
      ends := e.now_us + want_term;
      IF n = 0 THEN
        UPDATE tenure_keys t SET
            claim = me, mode = want, lim = want_lim, term_us = want_term, spare = want_spare, floor = want_floor,
            ends_us = ends, since_us = e.now_us, channel = listens, identity = who, session = under, token = first,
            last_token = first + extra, line = false, reserved_by = under,
            -- For a session that has come back alone. This is above what was reserved before.
            reserve = CASE WHEN under = 0 OR t.reserved_by <> under THEN 0 ELSE
              least(greatest(first + extra, e.now_us + 100000), 9007199254740991) END
          WHERE t.key = k;
        RETURN concat_ws(' ', me, 'granted', first, extra, 0);
      END IF;
      slot := CASE WHEN want = 'p' THEN tenure_free_slot(k) ELSE 0 END;
      INSERT INTO tenure_places VALUES (k, coalesce(top, 0) + 1, me, want, want_lim, want_term, want_spare, want_floor,
        'holds', ends, first, extra, slot, e.now_us, listens, who, under);
      UPDATE tenure_keys t SET last_token = first + extra,
        next_us = least(t.next_us, tenure_due(under, 'holds', ends)) WHERE t.key = k;
      RETURN concat_ws(' ', me, 'granted', first, extra, slot);
    END IF;
  END IF;
  IF leave THEN
    RETURN concat_ws(' ', me, 'busy', n, tenure_look_in(soon, e.now_us), e.last);
  END IF;
  ends := e.now_us + 3000000;
  INSERT INTO tenure_places VALUES (k, coalesce(top, 0) + 1, me, want, want_lim, want_term, want_spare, want_floor,
    'waits', ends, 0, 0, 0, e.now_us, listens, who, under);
  IF n = 0 THEN
    -- There is no token for it.
    UPDATE tenure_keys t SET line = true WHERE t.key = k;
  END IF;
  PERFORM tenure_keep(k, ends);
  RETURN concat_ws(' ', me, 'waiting', n, tenure_look_in(soon, e.now_us), e.last);
END $$;

-- When to look again. What is past and still there is pinned by a transaction, whose end nobody can foretell.
CREATE FUNCTION tenure_look_in(soon bigint, now_us bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN soon IS NULL THEN 'none' WHEN soon <= now_us THEN '50000' ELSE (soon - now_us)::text END
$$;

CREATE FUNCTION tenure_renew(k text, me text, want_term bigint, under bigint, wait_ms integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  now_us bigint := tenure_begin(under, wait_ms);
  e record;
BEGIN
  -- The hold is alone in its line. Nobody else has acted on it since we read the clock, however long we waited for its
  -- row: whoever finds a hold dead takes it from there first.
  UPDATE tenure_keys t SET ends_us = now_us + want_term
    WHERE t.key = k AND t.claim = me AND NOT t.tombstones AND t.session = under
      AND (under <> 0 OR t.ends_us > now_us);
  IF FOUND THEN
    RETURN me || ' renewed';
  END IF;
  SELECT * INTO e FROM tenure_enter(k, false);
  IF e.buried THEN
    PERFORM tenure_promote(k, e.now_us, NULL);
  END IF;
  UPDATE tenure_places p SET state = 'holds', ends_us = e.now_us + want_term
    WHERE p.key = k AND p.claim = me AND p.state <> 'waits' AND p.session = under
      AND NOT tenure_is_dead(p, e.now_us);
  IF NOT FOUND THEN
    RETURN tenure_gone(k, me);
  END IF;
  PERFORM tenure_keep(k, tenure_due(under, 'holds', e.now_us + want_term));
  RETURN me || ' renewed';
END $$;

CREATE FUNCTION tenure_restamp(k text, me text, want_spare bigint, want_floor bigint, under bigint,
  wait_ms integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  now_us bigint := tenure_begin(under, wait_ms);
  e record;
  t record;
BEGIN
  SELECT * INTO e FROM tenure_enter(k, false);
  IF e.buried THEN
    PERFORM tenure_promote(k, e.now_us, NULL);
    SELECT last_token INTO e.last FROM tenure_keys WHERE key = k;
  END IF;
  SELECT * INTO t FROM tenure_tokens(greatest(e.last, e.reserved), want_floor, want_spare, e.now_us);
  UPDATE tenure_places p SET token = t.first, spare_granted = t.spare
    WHERE p.key = k AND p.claim = me AND p.state <> 'waits' AND p.session = under
      AND NOT tenure_is_dead(p, e.now_us) AND t.first IS NOT NULL;
  IF NOT FOUND THEN
    RETURN tenure_gone(k, me);
  END IF;
  UPDATE tenure_keys SET last_token = t.first + t.spare WHERE key = k;
  RETURN concat_ws(' ', me, 'fresh', t.first, t.spare);
END $$;

CREATE FUNCTION tenure_withdraw(k text, me text, want_term bigint, stray boolean, under bigint,
  wait_ms integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  now_us bigint := tenure_begin(under, wait_ms);
  told text;
  e record;
  was text := 'absent';
BEGIN
  IF NOT stray THEN
    -- The hold is alone in its line, so nobody is enabled. One that is pinned, or that a verb is at, is passed by.
    PERFORM FROM tenure_keys t
      WHERE t.key = k AND t.claim = me AND NOT t.tombstones AND t.session = under
        AND (under <> 0 OR t.ends_us > now_us)
      FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
      UPDATE tenure_keys t SET claim = NULL WHERE t.key = k;
      IF under <> 0 THEN
        told := tenure_hasten();
      END IF;
      RETURN me || ' held';
    END IF;
  END IF;
  SELECT * INTO e FROM tenure_enter(k, stray);
  IF e.known THEN
    was := tenure_remove(k, me, e.now_us);
    IF stray THEN
      PERFORM tenure_entomb(k, me, false, e.now_us + want_term);
    END IF;
    IF e.buried OR was <> 'absent' THEN
      PERFORM tenure_promote(k, e.now_us, NULL);
    END IF;
  END IF;
  RETURN me || ' ' || was;
END $$;

CREATE FUNCTION tenure_evict(k text, me text, wait_ms integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  now_us bigint := tenure_begin(0, wait_ms);
  e record;
  was text := 'absent';
  mine tenure_places;
BEGIN
  SELECT * INTO e FROM tenure_enter(k, false);
  SELECT p.* INTO mine FROM tenure_places p WHERE p.key = k AND p.claim = me;
  IF FOUND THEN
    was := tenure_remove(k, me, e.now_us);
  END IF;
  IF was <> 'absent' THEN
    PERFORM tenure_entomb(k, me, true, e.now_us + mine.term_us);
  END IF;
  IF e.buried OR was <> 'absent' THEN
    PERFORM tenure_promote(k, e.now_us, NULL);
  END IF;
  IF was <> 'absent' AND mine.channel <> '' THEN
    PERFORM pg_notify(mine.channel, me);
  END IF;
  RETURN me || ' ' || was;
END $$;

-- Pins the hold of a claim until the caller's transaction ends: nobody else is granted before. NULL when it holds, or
-- why it does not. Renewals go on meanwhile: they leave the row's key alone. It may be moved while we look, but only
-- from the key's row to the line.
CREATE FUNCTION tenure_pin(k text, me text, with_token bigint) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  mine record;
BEGIN
  SELECT 'holds' AS state, t.ends_us, t.token, t.last_token - t.token AS spare_granted INTO mine
    FROM tenure_keys t WHERE t.key = k AND t.claim = me FOR KEY SHARE;
  IF NOT FOUND THEN
    SELECT p.state, p.ends_us, p.token, p.spare_granted INTO mine
      FROM tenure_places p WHERE p.key = k AND p.claim = me FOR KEY SHARE;
  END IF;
  IF NOT FOUND THEN
    RETURN 'it is not in the line any more';
  ELSIF mine.state = 'waits' THEN
    RETURN 'it waits';
  ELSIF mine.ends_us <= tenure_now() THEN
    RETURN 'its lease has ended';
  ELSIF with_token < mine.token OR with_token > mine.token + mine.spare_granted THEN
    RETURN 'it has another token';
  END IF;
  RETURN NULL;
END $$;

-- Forgets keys after `after` that have been idle for so long; returns where to go on, NULL at the end. Their highest
-- token is kept, so that none is ever given out twice.
CREATE FUNCTION tenure_sweep(after text, idle_us bigint, most integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  k text;
  looked integer := 0;
  dead bigint;
  last bigint;
  highest bigint;
BEGIN
  FOR k IN SELECT t.key FROM tenure_keys t WHERE t.key > after COLLATE "C" ORDER BY t.key LIMIT most LOOP
    looked := looked + 1;
    after := k;
    dead := tenure_now() - idle_us;
    SELECT greatest(t.last_token, t.reserve) INTO last FROM tenure_keys t
      WHERE t.key = k AND t.last_token < dead AND CASE WHEN t.claim IS NULL THEN true WHEN t.ends_us >= dead THEN false
        ELSE t.session = 0 OR NOT tenure_alive(t.session) END
      FOR UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    WITH gone AS (
      SELECT p.claim FROM tenure_places p
        WHERE p.key = k AND p.ends_us < dead AND tenure_is_dead(p, dead) FOR UPDATE SKIP LOCKED
    )
    DELETE FROM tenure_places p USING gone WHERE p.key = k AND p.claim = gone.claim;
    DELETE FROM tenure_tombstones t WHERE t.key = k AND t.ends_us < dead;
    CONTINUE WHEN EXISTS (SELECT FROM tenure_places p WHERE p.key = k)
      OR EXISTS (SELECT FROM tenure_tombstones t WHERE t.key = k);
    DELETE FROM tenure_keys t WHERE t.key = k;
    highest := greatest(highest, last);
  END LOOP;
  IF highest IS NOT NULL THEN
    UPDATE tenure_schema SET forgotten = greatest(forgotten, highest);
  END IF;
  RETURN CASE WHEN looked = most THEN after END;
END $$;

INSERT INTO tenure_schema (version) VALUES (1);
