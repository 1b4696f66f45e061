"""The command line: a plain HTTP client of the service, or with --local the work itself.

    arguments ─► commands ─► a Source: Remote (over HTTP) or Local (in this process)
                    │           ▲
                    ├─► follow ─┘   asks until the jobs are finished; the screen shows it
                    └─► formats     links, in input order

Links go to stdout, all else to stderr. Only `local` knows the service's own modules.
"""
