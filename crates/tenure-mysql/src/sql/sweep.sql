-- Cleans up the keys after `p_after` that nobody has used for `p_idle` microseconds, looking at `p_limit` of them; the
-- last one looked at, none at the end. Their tokens stay below the floor under all that come later.
CREATE PROCEDURE tenure_sweep(IN p_after {key}, IN p_limit BIGINT, IN p_idle BIGINT)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_now, v_looked, v_last, v_dead BIGINT DEFAULT 0;
  DECLARE v_key, v_locked {key};
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
  SET v_now = {now};
  SELECT MIN(`key`) INTO v_key FROM tenure_keys WHERE `key` > p_after;
  WHILE v_key IS NOT NULL AND v_looked < p_limit DO
    SET v_looked = v_looked + 1, p_after = v_key, v_locked = NULL, v_dead = 0;
    IF EXISTS (SELECT 1 FROM tenure_keys WHERE `key` = v_key AND last_token < v_now - p_idle)
      AND NOT EXISTS (SELECT 1 FROM tenure_places WHERE `key` = v_key AND ends_us > v_now - p_idle) THEN
      START TRANSACTION;
      SELECT `key`, last_token INTO v_locked, v_last FROM tenure_keys WHERE `key` = v_key FOR UPDATE SKIP LOCKED;
      IF v_locked IS NOT NULL AND v_last < v_now - p_idle THEN
        SELECT COUNT(*) INTO v_dead FROM tenure_places WHERE `key` = v_key;
        IF v_dead = 0 THEN
          UPDATE tenure_schema SET floor_token = GREATEST(floor_token, v_last);
          DELETE FROM tenure_holds WHERE `key` = v_key;
          DELETE FROM tenure_keys WHERE `key` = v_key;
        END IF;
      END IF;
      COMMIT;
      IF v_dead > 0 THEN
        -- Brings the line to the present, which buries the dead; the next round finds it empty.
        START TRANSACTION;
        CALL tenure_enter(v_key, v_now, v_last);
        COMMIT;
      END IF;
    END IF;
    SELECT MIN(`key`) INTO v_key FROM tenure_keys WHERE `key` > p_after;
  END WHILE;
  SELECT v_key IS NULL AS finished, p_after AS looked_at;
END
