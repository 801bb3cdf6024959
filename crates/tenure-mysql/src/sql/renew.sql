-- Proves the hold now and keeps it for another term.
CREATE PROCEDURE tenure_renew(IN p_key {key}, IN p_claim {claim}, IN p_term BIGINT, IN p_session BIGINT)
SQL SECURITY INVOKER
renew: BEGIN
  DECLARE v_now, v_before, v_last, v_seq BIGINT;
  DECLARE v_state {word};
  DECLARE v_told {text};
  DECLARE v_answer {text};
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
  IF p_session <> 0 AND NOT (IS_USED_LOCK(CONCAT('tenure ', p_session)) <=> CONNECTION_ID()) THEN
    SELECT CONCAT(p_claim, ' astray') AS answer, NULL AS told;
    LEAVE renew;
  END IF;
  START TRANSACTION;
  CALL tenure_enter(p_key, v_now, v_before);
  SET v_last = v_before;
  CALL tenure_promote(p_key, '', v_now, v_last, v_told);
  SELECT seq, state INTO v_seq, v_state FROM tenure_places
    WHERE `key` = p_key AND claim = p_claim AND (session = p_session OR state IN ('withdrawn', 'evicted'));
  IF v_state IN ('offered', 'held') THEN
    IF v_state = 'offered' OR p_session = 0 THEN
      -- A hold that has a session lasts as long as that: there is nothing to write.
      UPDATE tenure_places SET state = 'held', ends_us = v_now + p_term WHERE `key` = p_key AND seq = v_seq;
    END IF;
    SET v_answer = 'renewed';
  ELSE
    SET v_answer = CONCAT('gone ', IF(v_state IN ('withdrawn', 'evicted'), v_state, 'absent'));
  END IF;
  IF v_last <> v_before THEN
    UPDATE tenure_keys SET last_token = v_last WHERE `key` = p_key;
  END IF;
  COMMIT;
  SELECT CONCAT(p_claim, ' ', v_answer) AS answer, v_told AS told;
END
