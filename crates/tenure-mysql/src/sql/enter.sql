-- Locks the key's row, then reads the clock, then drops what is dead by then. What an open transaction of its holder
-- guards is not dead, whatever the time.
CREATE PROCEDURE tenure_enter(IN p_key {key}, OUT p_now BIGINT, OUT p_last BIGINT)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_seq, v_free BIGINT;
  DECLARE v_claim {claim};
  SELECT last_token INTO p_last FROM tenure_keys WHERE `key` = p_key FOR UPDATE;
  IF p_last IS NULL THEN
    INSERT INTO tenure_keys (`key`, last_token) VALUES (p_key, 0)
      ON DUPLICATE KEY UPDATE last_token = last_token + 0;
    SELECT last_token INTO p_last FROM tenure_keys WHERE `key` = p_key FOR UPDATE;
  END IF;
  IF p_last = 0 THEN
    -- Read after the row is locked: whoever has cleaned the key up has raised the floor before.
    SELECT GREATEST(p_last, MAX(floor_token)) INTO p_last FROM tenure_schema;
  END IF;
  SET p_now = {now};
  SELECT MIN(seq) INTO v_seq FROM tenure_places WHERE `key` = p_key AND ends_us <= p_now;
  WHILE v_seq IS NOT NULL DO
    SELECT claim INTO v_claim FROM tenure_places WHERE `key` = p_key AND seq = v_seq;
    CALL tenure_free(p_key, v_claim, v_free);
    IF v_free THEN
      DELETE FROM tenure_places WHERE `key` = p_key AND seq = v_seq;
    END IF;
    SELECT MIN(seq) INTO v_seq FROM tenure_places WHERE `key` = p_key AND ends_us <= p_now AND seq > v_seq;
  END WHILE;
END
