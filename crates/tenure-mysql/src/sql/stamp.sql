-- The next token and how many spare ones come with it; none at the end of the range.
CREATE PROCEDURE tenure_stamp(
  IN p_now BIGINT, IN p_floor BIGINT, IN p_spare BIGINT, INOUT p_last BIGINT, OUT p_token BIGINT, OUT p_granted BIGINT
)
SQL SECURITY INVOKER
BEGIN
  SET p_token = GREATEST(GREATEST(p_last, p_floor) + 1, LEAST(p_now, 9007199254740991));
  IF p_token > 9007199254740991 THEN
    SET p_token = NULL;
  ELSE
    SET p_granted = LEAST(p_spare, GREATEST(LEAST(p_now + 100000, 9007199254740991) - p_token, 0));
    SET p_last = p_token + p_granted;
  END IF;
END
