-- Takes a claim out of the line in the name of an operator.
CREATE PROCEDURE tenure_evict(IN p_key {key}, IN p_claim {claim})
SQL SECURITY INVOKER
BEGIN
  DECLARE v_now, v_before, v_last, v_seq BIGINT;
  DECLARE v_free BIGINT DEFAULT 1;
  DECLARE v_state {word};
  DECLARE v_told {text};
  DECLARE v_answer {text};
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
  START TRANSACTION;
  CALL tenure_enter(p_key, v_now, v_before);
  SET v_last = v_before;
  SELECT seq, state INTO v_seq, v_state FROM tenure_places WHERE `key` = p_key AND claim = p_claim;
  IF v_state IN ('offered', 'held') THEN
    CALL tenure_free(p_key, p_claim, v_free);
  END IF;
  SET v_answer = CASE
    WHEN NOT v_free THEN 'guarded'
    WHEN v_state IN ('offered', 'held') THEN 'held'
    WHEN v_state = 'waiting' THEN 'waited'
    ELSE 'absent'
  END;
  IF v_answer IN ('held', 'waited') THEN
    UPDATE tenure_places SET state = 'evicted', ends_us = v_now + term_us WHERE `key` = p_key AND seq = v_seq;
  END IF;
  CALL tenure_promote(p_key, '', v_now, v_last, v_told);
  IF v_answer IN ('held', 'waited') THEN
    SET v_told = CONCAT_WS(',', v_told, p_claim);
  END IF;
  IF v_last <> v_before THEN
    UPDATE tenure_keys SET last_token = v_last WHERE `key` = p_key;
  END IF;
  COMMIT;
  SELECT CONCAT(p_claim, ' ', v_answer) AS answer, v_told AS told;
END
