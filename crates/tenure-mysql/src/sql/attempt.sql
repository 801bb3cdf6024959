-- Joins the line, looks again, and keeps the place alive.
CREATE PROCEDURE tenure_attempt(
  IN p_key {key}, IN p_claim {claim}, IN p_mode {word},
  IN p_lim BIGINT, IN p_term BIGINT, IN p_spare BIGINT, IN p_floor BIGINT, IN p_leave BIGINT, IN p_channel BIGINT,
  IN p_session BIGINT, IN p_identity {identity}
)
SQL SECURITY INVOKER
attempt: BEGIN
  DECLARE v_now, v_before, v_last, v_seq, v_token, v_spares, v_slot, v_stored, v_places, v_waiting, v_top BIGINT;
  DECLARE v_limit, v_look, v_session BIGINT;
  DECLARE v_state, v_first {word};
  DECLARE v_told {text};
  DECLARE v_answer {text};
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
  IF p_session <> 0 AND NOT (IS_USED_LOCK(CONCAT('tenure ', p_session)) <=> CONNECTION_ID()) THEN
    SELECT CONCAT(p_claim, ' astray') AS answer, NULL AS told;
    LEAVE attempt;
  END IF;
  START TRANSACTION;
  CALL tenure_enter(p_key, v_now, v_before);
  SET v_last = v_before;
  CALL tenure_promote(p_key, p_claim, v_now, v_last, v_told);
  SELECT seq, state, token, spare_granted, slot, session
    INTO v_seq, v_state, v_token, v_spares, v_slot, v_session
    FROM tenure_places WHERE `key` = p_key AND claim = p_claim;
  IF v_seq IS NULL AND p_mode = 'p' THEN
    SELECT MIN(lim) INTO v_stored FROM tenure_places
      WHERE `key` = p_key AND mode = 'p' AND state IN ('waiting', 'offered', 'held');
  END IF;
  IF v_state IN ('withdrawn', 'evicted') THEN
    SET v_answer = CONCAT('gone ', v_state);
  ELSEIF v_session <> p_session THEN
    -- A place of another session is never adopted.
    SET v_answer = 'gone absent';
  ELSEIF v_stored <> p_lim THEN
    SET v_answer = CONCAT('limit ', v_stored);
  ELSEIF v_state IN ('offered', 'held') THEN
    UPDATE tenure_places SET state = 'held', ends_us = v_now + p_term WHERE `key` = p_key AND seq = v_seq;
    SET v_answer = CONCAT_WS(' ', 'granted', v_token, v_spares, v_slot);
  ELSE
    SELECT COUNT(*), COALESCE(SUM(state = 'waiting'), 0), MIN(CAST(mode AS CHAR)), MIN(lim),
        MIN(CASE WHEN session <> 0 AND state = 'held' THEN NULL
          WHEN ends_us > v_now THEN ends_us ELSE v_now + 100000 END)
      INTO v_places, v_waiting, v_first, v_limit, v_look FROM tenure_places
      WHERE `key` = p_key AND state IN ('waiting', 'offered', 'held') AND (v_seq IS NULL OR seq < v_seq);
    IF v_seq IS NULL AND v_waiting = 0 AND (v_places = 0 OR (
      p_mode = v_first AND (p_mode = 's' OR (p_mode = 'p' AND p_lim = v_limit AND v_places < p_lim))
    )) THEN
      CALL tenure_stamp(v_now, p_floor, p_spare, v_last, v_token, v_spares);
    END IF;
    IF v_seq IS NULL THEN
      SELECT COALESCE(MAX(seq), 0) + 1 INTO v_top FROM tenure_places WHERE `key` = p_key;
    END IF;
    IF v_seq IS NULL AND v_token IS NOT NULL THEN
      CALL tenure_slot(p_key, p_mode, v_slot);
      INSERT INTO tenure_places VALUES (
        p_key, v_top, p_claim, p_mode, p_lim, p_term, p_spare, p_floor, 'held', v_now + p_term, v_token, v_spares,
        v_slot, v_now, p_channel, p_identity, p_session
      );
      INSERT INTO tenure_holds VALUES (p_key, p_claim) ON DUPLICATE KEY UPDATE claim = p_claim;
      SET v_answer = CONCAT_WS(' ', 'granted', v_token, v_spares, v_slot);
    ELSE
      IF v_seq IS NOT NULL THEN
        UPDATE tenure_places SET ends_us = v_now + {window} WHERE `key` = p_key AND seq = v_seq;
      ELSEIF NOT p_leave THEN
        INSERT INTO tenure_places VALUES (
          p_key, v_top, p_claim, p_mode, p_lim, p_term, p_spare, p_floor, 'waiting', v_now + {window}, 0, 0,
          0, v_now, p_channel, p_identity, p_session
        );
      END IF;
      SET v_answer = CONCAT_WS(
        ' ', IF(v_seq IS NULL AND p_leave, 'busy', 'waiting'), v_places, COALESCE(v_look - v_now, 'none'), v_last
      );
    END IF;
  END IF;
  IF v_last <> v_before THEN
    UPDATE tenure_keys SET last_token = v_last WHERE `key` = p_key;
  END IF;
  COMMIT;
  SELECT CONCAT(p_claim, ' ', v_answer) AS answer, v_told AS told;
END
