"""A whole Bellwether cluster of real processes in one directory of one machine.

`deploy/quickstart` runs it for people, `tests/cluster` for tests; both say which directory. Linux only; it needs
nothing but the standard library. Nothing outside that directory is written, everything listens on 127.0.0.1.

    layout     where each file is
    ports      free TCP ports, chosen once and kept
    process    one detached process: start, stop, kill, suspend; and the record by which a later command finds it again
    users      which user of this machine each of them runs as
    server     what the next two have in common
    broker     RabbitMQ
    mariadb    a MariaDB server
    records    what was started, written down for later commands
    api        the least client of the HTTPS API
    provider   a provider: init or join, run
    agent      an agent: enrol, run
    cluster    all of these together: up, down, start one, status
    steps      steps at the same time, each told with its seconds
    report     what runs where, and what to try
    __main__   the command
"""
