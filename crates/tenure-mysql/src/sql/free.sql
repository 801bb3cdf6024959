-- Whether a place may be taken away: no open transaction of its holder guards it. It then stays ours to the end.
CREATE PROCEDURE tenure_free(IN p_key {key}, IN p_claim {claim}, OUT p_free BIGINT)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_seq BIGINT;
  SELECT seq INTO v_seq FROM tenure_places FORCE INDEX (tenure_holds)
    WHERE `key` = p_key AND claim = p_claim FOR UPDATE SKIP LOCKED;
  SET p_free = v_seq IS NOT NULL;
END
