-- The lowest permit that nobody has.
CREATE PROCEDURE tenure_slot(IN p_key {key}, IN p_mode {word}, OUT p_slot BIGINT)
SQL SECURITY INVOKER
BEGIN
  SET p_slot = 0;
  IF p_mode = 'p' THEN
    WHILE EXISTS (
      SELECT 1 FROM tenure_places WHERE `key` = p_key AND state IN ('offered', 'held') AND slot = p_slot
    ) DO
      SET p_slot = p_slot + 1;
    END WHILE;
  END IF;
END
