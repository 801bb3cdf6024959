-- The version of what is below, written last, and the floor under the tokens of keys that were cleaned up.
CREATE TABLE IF NOT EXISTS tenure_schema (
  version INT UNSIGNED NOT NULL PRIMARY KEY,
  floor_token BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB COMMENT 'locks of tenure: do not edit';

-- One row for each key: what is locked while a verb acts on the line of the key.
CREATE TABLE IF NOT EXISTS tenure_keys (
  `key` {key} NOT NULL PRIMARY KEY,
  last_token BIGINT NOT NULL
) ENGINE = InnoDB COMMENT 'locks of tenure: do not edit';

-- The places of each line in order, and the tombstones of claims that must not come back. All times are microseconds
-- since 1970 by the clock of this server.
CREATE TABLE IF NOT EXISTS tenure_places (
  `key` {key} NOT NULL,
  seq BIGINT NOT NULL,
  claim {claim} NOT NULL,
  mode ENUM('x', 's', 'p') CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  lim BIGINT NOT NULL,
  term_us BIGINT NOT NULL,
  spare BIGINT NOT NULL,
  floor BIGINT NOT NULL,
  state ENUM('waiting', 'offered', 'held', 'withdrawn', 'evicted') CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  ends_us BIGINT NOT NULL,
  token BIGINT NOT NULL DEFAULT 0,
  spare_granted BIGINT NOT NULL DEFAULT 0,
  slot BIGINT NOT NULL DEFAULT 0,
  since_us BIGINT NOT NULL,
  channel BIGINT NOT NULL,
  identity {identity} NOT NULL,
  -- The session that the place lives and ends with; zero for one that ends with its lease.
  session BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (`key`, seq),
  -- How a client finds what has changed for all that it waits for.
  KEY tenure_news (channel, state)
) ENGINE = InnoDB COMMENT 'locks of tenure: do not edit';

-- One row for each place that was granted. A transaction of the holder locks this one: its deadline can still be moved,
-- and nobody can take the place away.
CREATE TABLE IF NOT EXISTS tenure_holds (
  `key` {key} NOT NULL,
  claim {claim} NOT NULL,
  PRIMARY KEY (`key`, claim)
) ENGINE = InnoDB COMMENT 'locks of tenure: do not edit';
