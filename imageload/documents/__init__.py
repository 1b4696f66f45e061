"""Image URLs in documents: found by each kind's parser, and replaced by links where they stand.

`document.read_document` makes a `Document` of bytes; `Document.find` finds its images, and
`Document.replaced` gives the bytes with links. The service does this in child processes: `pool`
asks a `worker`, and only workers import the parsers.
"""
