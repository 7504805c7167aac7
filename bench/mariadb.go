package main

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/alexedwards/scs/mysqlstore"
	"github.com/go-sql-driver/mysql"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// Names of peers on MariaDB.
const (
	scsMySQL       = "scs, mysqlstore"
	scsMySQLNoIdle = scsMySQL + ", no idle timeout"
	// scsInterpolated has its arguments written into the statements by the driver,
	// which saves a round trip: scs does not prepare them.
	scsInterpolated = scsMySQL + ", interpolateParams"
)

var mariadb = sqlServer{
	driver:    "mysql",
	dialect:   sqlstore.MySQL,
	dsn:       mariadbDSN(false),
	makeSpace: "CREATE DATABASE IF NOT EXISTS `%s`",
	relax:     []string{"SET GLOBAL innodb_flush_log_at_trx_commit = 2"},
	restore:   []string{"SET GLOBAL innodb_flush_log_at_trx_commit = 1"},
	read:      "SELECT `key`, `version`, `handle`, `owner`, `created`, `deadline`, `expires`, `next`, `label`, `data` FROM `coatcheck_sessions` WHERE `key` = ?",
	update:    "UPDATE `coatcheck_sessions` SET `version` = ?, `expires` = ?, `data` = ? WHERE `key` = ?",
}

// interpolated is the same with the driver's interpolateParams.
var interpolated = func() sqlServer {
	s := mariadb
	s.dsn = mariadbDSN(true)
	return s
}()

func mariadbDSN(interpolate bool) func(rawURL, space string) (string, error) {
	return func(rawURL, space string) (string, error) {
		u, err := url.Parse(rawURL)
		if err != nil {
			return "", err
		}
		c := mysql.NewConfig()
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
		c.Net, c.Addr, c.DBName = "tcp", u.Host, space
		if space == "" {
			c.DBName = strings.TrimPrefix(u.Path, "/")
		}
		c.InterpolateParams = interpolate
		return c.FormatDSN(), nil
	}
}

var mariadbFamily = family{
	kinds: []string{"mariadb", "mysql"},
	// Commits wait for the disk, as they do unless one turns that off. All rows are
	// connected at once.
	config: []string{
		"loose-debug-no-sync=OFF", "innodb_flush_log_at_trx_commit=1", "innodb_flush_method=O_DIRECT", "max_connections=1000",
	},
	peers:    mariadbPeers(),
	sections: mariadbSections(),
	panels:   sqlPanels("the server", scsMySQL, scsInterpolated),
	modules: []string{
		"github.com/alexedwards/scs/v2",
		"github.com/alexedwards/scs/mysqlstore",
		"github.com/go-sql-driver/mysql",
	},
	notes: "mariadb.md",
	judge: func(j *judge) {
		j.rate("read, to scs on mysqlstore", "read", coatcheck, scsMySQL, 4)
		j.rate("the same where no commit waits for the disk", "read-relaxed", coatcheck, scsMySQL, 4)
	},
	cpu:   processCPU,
	relax: mariadb.relaxing,
}

func mariadbPeers() []peer {
	all := append(mariadb.peers(),
		peer{scsMySQL, openMySQLStore(&mariadb, "scs_mysql", peerConns, true)},
		peer{scsMySQLNoIdle, openMySQLStore(&mariadb, "scs_mysql_no_idle", peerConns, false)},
		peer{scsInterpolated, openMySQLStore(&interpolated, "scs_interpolated", peerConns, true)})
	for _, n := range otherSizes(peerConns) {
		all = append(all, peer{pooled(scsMySQL, n), openMySQLStore(&mariadb, "scs_mysql_"+strconv.Itoa(n), n, true)})
	}
	return all
}

func mariadbSections() []section {
	scs := []string{scsMySQL, scsInterpolated}
	return sqlSections(scs, []string{
		scsMySQL, coatcheck, bareSelect, bareWaits, near, touching, scsInterpolated, scsMySQLNoIdle, noSession,
	}, sqlPools(scsMySQL))
}

// mysqlTable is the table of the README of the store of scs.
const mysqlTable = "CREATE TABLE IF NOT EXISTS sessions (token CHAR(43) PRIMARY KEY, data BLOB NOT NULL, expiry TIMESTAMP(6) NOT NULL, INDEX sessions_expiry_idx (expiry))"

func openMySQLStore(s *sqlServer, space string, conns int, withIdle bool) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, rawURL string) (*app, error) {
		db, err := s.open(ctx, rawURL, space, conns, mysqlTable)
		if err != nil {
			return nil, err
		}
		return scsPages(mysqlstore.NewWithCleanupInterval(db, 0), withIdle).app(func() { _ = db.Close() }), nil
	}
}
