"""The command line: a plain HTTP client of the service.

    arguments ─► commands ─► client     the HTTP API, over a connection with its errors
                    │   ▲
                    │   └── child       with --local: the service as a child process
                    ├─► urls            lists of URLs, read and written
                    ├─► progress        polls until the jobs are finished
                    └─► output          links, tables, messages
              ─► rewrite ─► rewriter    documents: looking, posting, writing
                    │          ├─► done the copies of an earlier run
                    │          └─► files, archive   files replaced as a whole, zip files
                    ├─► documents       files, folders, zip files, stdin
                    └─► report          what stayed as it was

Links go to stdout, everything else to stderr.
"""
