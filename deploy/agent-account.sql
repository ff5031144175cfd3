-- The agent's account on a MariaDB server (10.5 and later). Run it once on each, as the server's administrator:
--
--     mariadb < deploy/agent-account.sql
--
-- Who is logged in to the host as the user bellwether-agent is let in through the socket; there is no password, and no
-- other way in. Not written to the binary log: a replica has an agent and an account of its own.

SET SESSION sql_log_bin = 0;
CREATE USER IF NOT EXISTS `bellwether-agent`@localhost IDENTIFIED VIA unix_socket;

-- What it needs for its own work: look at databases, accounts (SELECT on mysql.*) and replication, and make, change and
-- drop databases and accounts.
GRANT SELECT ON mysql.* TO `bellwether-agent`@localhost;
GRANT SHOW DATABASES, SLAVE MONITOR, CREATE USER, CREATE, ALTER, DROP ON *.* TO `bellwether-agent`@localhost;

-- What it may give to the accounts that it makes: nobody can give what he does not have. Leave out what no account
-- shall ever get from the control plane; a wish for it then fails with the server's own message. What holds for the
-- whole server (PROCESS, RELOAD, …) is not in the list: add what your accounts need.
GRANT SELECT, INSERT, UPDATE, DELETE, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER, DELETE HISTORY /*M!110300 , SHOW CREATE ROUTINE */ ON *.* TO `bellwether-agent`@localhost WITH GRANT OPTION;
