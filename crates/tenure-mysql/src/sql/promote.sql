-- Offers the key to every place that the rule of the line lets in. All but `p_mine` are told.
CREATE PROCEDURE tenure_promote(
  IN p_key {key}, IN p_mine {claim}, IN p_now BIGINT, INOUT p_last BIGINT,
  OUT p_told {text}
)
SQL SECURITY INVOKER
promote: BEGIN
  DECLARE v_seq, v_granted, v_lim, v_limit, v_spare, v_floor, v_token, v_spares, v_slot BIGINT;
  DECLARE v_mode, v_first {word};
  DECLARE v_claim {claim};
  SELECT MIN(seq) INTO v_seq FROM tenure_places WHERE `key` = p_key AND state = 'waiting';
  IF v_seq IS NULL THEN
    LEAVE promote;
  END IF;
  SELECT COUNT(*), MIN(CAST(mode AS CHAR)), MIN(lim) INTO v_granted, v_first, v_limit
    FROM tenure_places WHERE `key` = p_key AND state IN ('offered', 'held');
  WHILE v_seq IS NOT NULL DO
    SELECT claim, mode, lim, spare, floor INTO v_claim, v_mode, v_lim, v_spare, v_floor
      FROM tenure_places WHERE `key` = p_key AND seq = v_seq;
    IF v_granted > 0 AND NOT (
      v_mode = v_first AND (v_mode = 's' OR (v_mode = 'p' AND v_lim = v_limit AND v_granted < v_lim))
    ) THEN
      LEAVE promote;
    END IF;
    CALL tenure_stamp(p_now, v_floor, v_spare, p_last, v_token, v_spares);
    IF v_token IS NULL THEN
      LEAVE promote;
    END IF;
    CALL tenure_slot(p_key, v_mode, v_slot);
    UPDATE tenure_places
      SET state = 'offered', ends_us = p_now + {window}, token = v_token, spare_granted = v_spares,
        slot = v_slot, since_us = p_now
      WHERE `key` = p_key AND seq = v_seq;
    INSERT INTO tenure_holds VALUES (p_key, v_claim) ON DUPLICATE KEY UPDATE claim = v_claim;
    IF v_claim <> p_mine THEN
      SET p_told = CONCAT_WS(',', p_told, CONCAT_WS(' ', v_claim, v_token, v_spares, v_slot));
    END IF;
    SET v_granted = v_granted + 1, v_first = v_mode, v_limit = v_lim;
    SELECT MIN(seq) INTO v_seq FROM tenure_places WHERE `key` = p_key AND state = 'waiting';
  END WHILE;
END
