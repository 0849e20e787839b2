-- Version 3. What an operator should know of a record: bounded, interrupted, corrected.
ALTER TABLE usage ADD COLUMN flag TEXT;  -- NULL: nothing
