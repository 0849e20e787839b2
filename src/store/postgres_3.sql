-- Version 3. As in SQLite's schema.
ALTER TABLE usage ADD COLUMN flag TEXT COLLATE "C";  -- NULL: nothing
