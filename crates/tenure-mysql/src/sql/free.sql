-- Ends a hold, unless an open transaction of its holder guards it; whether it has ended.
CREATE PROCEDURE tenure_free(IN p_key {key}, IN p_claim {claim}, OUT p_free BIGINT)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_claim {claim};
  SELECT claim INTO v_claim FROM tenure_holds WHERE `key` = p_key AND claim = p_claim FOR UPDATE SKIP LOCKED;
  SET p_free = v_claim IS NOT NULL;
  IF p_free THEN
    DELETE FROM tenure_holds WHERE `key` = p_key AND claim = p_claim;
  END IF;
END
