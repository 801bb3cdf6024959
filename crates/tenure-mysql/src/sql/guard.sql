-- Guards the caller's transaction with a hold: until it ends, the place cannot be taken away. Takes part in the
-- caller's transaction, and neither begins nor ends one.
CREATE PROCEDURE tenure_guard(IN p_key {key}, IN p_claim {claim}, IN p_token BIGINT)
SQL SECURITY INVOKER
BEGIN
  DECLARE v_ends, v_session, v_now BIGINT;
  DECLARE v_claim {claim};
  DECLARE v_seen {word};
  SELECT claim INTO v_claim FROM tenure_holds WHERE `key` = p_key AND claim = p_claim LOCK IN SHARE MODE;
  SELECT state, ends_us, session INTO v_seen, v_ends, v_session FROM tenure_places
    WHERE `key` = p_key AND claim = p_claim AND p_token BETWEEN token AND token + spare_granted;
  SET v_now = {now};
  SELECT CONCAT(p_claim, ' ', CASE
    WHEN v_claim IS NULL THEN 'gone'
    WHEN v_seen IS NULL THEN 'unseen'
    WHEN v_seen NOT IN ('offered', 'held') THEN 'gone'
    WHEN v_ends <= v_now AND NOT (v_session <> 0 AND v_seen = 'held') THEN 'expired'
    WHEN v_session <> 0 AND IS_FREE_LOCK(CONCAT('tenure ', v_session)) THEN 'expired'
    ELSE 'guarded'
  END) AS answer;
END
