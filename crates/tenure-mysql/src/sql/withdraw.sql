-- Takes the claim out of the line; with `p_stray`, an attempt of it that arrives later is refused for a term.
CREATE PROCEDURE tenure_withdraw(
  IN p_key {key}, IN p_claim {claim}, IN p_term BIGINT, IN p_stray BIGINT
)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_now, v_before, v_last, v_seq, v_top BIGINT;
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
  IF NOT v_free THEN
    SET v_answer = 'guarded';
  ELSE
    SET v_answer = CASE
      WHEN v_state IN ('offered', 'held') THEN 'held' WHEN v_state = 'waiting' THEN 'waited' ELSE 'absent'
    END;
    IF v_answer = 'absent' AND p_stray THEN
      IF v_seq IS NULL THEN
        SELECT COALESCE(MAX(seq), 0) + 1 INTO v_top FROM tenure_places WHERE `key` = p_key;
        INSERT INTO tenure_places VALUES (
          p_key, v_top, p_claim, 'x', 0, p_term, 0, 0, 'withdrawn', v_now + p_term, 0, 0, 0, v_now, 0, '', 0
        );
      ELSE
        UPDATE tenure_places SET ends_us = GREATEST(ends_us, v_now + p_term) WHERE `key` = p_key AND seq = v_seq;
      END IF;
    ELSEIF p_stray THEN
      UPDATE tenure_places SET state = 'withdrawn', ends_us = v_now + p_term WHERE `key` = p_key AND seq = v_seq;
    ELSEIF v_answer <> 'absent' THEN
      DELETE FROM tenure_places WHERE `key` = p_key AND seq = v_seq;
    END IF;
  END IF;
  CALL tenure_promote(p_key, '', v_now, v_last, v_told);
  IF v_last <> v_before THEN
    UPDATE tenure_keys SET last_token = v_last WHERE `key` = p_key;
  END IF;
  COMMIT;
  SELECT CONCAT(p_claim, ' ', v_answer) AS answer, v_told AS told;
END
