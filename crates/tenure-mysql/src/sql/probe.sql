-- Whether the caller has the rights that the verbs need; changes nothing.
CREATE PROCEDURE tenure_probe()
SQL SECURITY INVOKER
BEGIN
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
  START TRANSACTION;
  UPDATE tenure_schema SET floor_token = floor_token WHERE FALSE;
  INSERT INTO tenure_keys SELECT `key`, last_token FROM tenure_keys WHERE FALSE;
  UPDATE tenure_keys SET last_token = last_token WHERE FALSE;
  DELETE FROM tenure_keys WHERE FALSE;
  INSERT INTO tenure_places SELECT * FROM tenure_places WHERE FALSE;
  UPDATE tenure_places SET seq = seq WHERE FALSE;
  DELETE FROM tenure_places WHERE FALSE;
  INSERT INTO tenure_holds SELECT * FROM tenure_holds WHERE FALSE;
  DELETE FROM tenure_holds WHERE FALSE;
  ROLLBACK;
  SELECT version FROM tenure_schema;
END
