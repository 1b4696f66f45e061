"""The command line: a plain HTTP client of the service.

    arguments ─► commands ─► client     the HTTP API and its errors
                    │   ▲
                    │   └── child       with --local: the service as a child process
                    ├─► urls            lists of URLs, read and written
                    ├─► progress        polls until the jobs are finished
                    └─► output          links, tables, messages

Links go to stdout, everything else to stderr.
"""
