-- Locks the key's row, then reads the clock, then drops what is dead by then: what has reached its end, but for holds
-- that have a session, and all places of a session that nobody has any more. What an open transaction of its holder
-- guards is not dead, whatever the time.
CREATE PROCEDURE tenure_enter(IN p_key {key}, OUT p_now BIGINT, OUT p_last BIGINT)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_seq, v_free BIGINT;
  DECLARE v_claim {claim};
  DECLARE v_state {word};
  SELECT last_token INTO p_last FROM tenure_keys WHERE `key` = p_key FOR UPDATE;
  WHILE p_last IS NULL DO
    -- A row of its own transaction: that we have inserted it locks a row until our commit begins, and a lock that we
    -- have taken until all that we have written is seen by others. Only the latter keeps two verbs apart. Ends, because
    -- only a clean-up of keys that were idle for a day takes the row away again.
    INSERT INTO tenure_keys (`key`, last_token) VALUES (p_key, 0)
      ON DUPLICATE KEY UPDATE last_token = last_token + 0;
    COMMIT;
    START TRANSACTION;
    SELECT last_token INTO p_last FROM tenure_keys WHERE `key` = p_key FOR UPDATE;
  END WHILE;
  IF p_last = 0 THEN
    -- Read after the row is locked: whoever has cleaned the key up has raised the floor before.
    SELECT GREATEST(p_last, MAX(floor_token)) INTO p_last FROM tenure_schema;
  END IF;
  SET p_now = {now};
  SELECT MIN(seq) INTO v_seq FROM tenure_places WHERE `key` = p_key AND {dead};
  WHILE v_seq IS NOT NULL DO
    SELECT claim, state INTO v_claim, v_state FROM tenure_places WHERE `key` = p_key AND seq = v_seq;
    SET v_free = TRUE;
    IF v_state IN ('offered', 'held') THEN
      CALL tenure_free(p_key, v_claim, v_free);
    END IF;
    IF v_free THEN
      DELETE FROM tenure_places WHERE `key` = p_key AND seq = v_seq;
    END IF;
    SELECT MIN(seq) INTO v_seq FROM tenure_places WHERE `key` = p_key AND seq > v_seq AND {dead};
  END WHILE;
END
