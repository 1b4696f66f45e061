"""The service's first version, as far as it loads images: one after the other, in one thread.

python -m bench.first_version URLS_FILE API_URL      prints what it took, as JSON

urllib downloads to a temp file, imgurpython as it is published uploads it. The interpreter's
start, the imports and the client's construction are not counted.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import imgurpython.client

from bench.process import peak_bytes


def load(client: imgurpython.ImgurClient, url: str) -> str:
    """The link of the image at `url`, which is on Imgur now."""
    with (
        tempfile.NamedTemporaryFile(delete=False) as file,
        urllib.request.urlopen(url, timeout=60) as answer,
    ):
        shutil.copyfileobj(answer, file)
    try:
        return str(client.upload_from_path(file.name, anon=True)["link"])
    finally:
        Path(file.name).unlink()


def main(urls_file: str, api_url: str) -> None:
    """Load every URL in the file, one a line, and print seconds, CPU seconds and peak bytes."""
    imgurpython.client.API_URL = api_url
    client = imgurpython.ImgurClient("bench", "")
    urls = Path(urls_file).read_text().splitlines()
    begun, cpu_begun = time.monotonic(), time.process_time()
    for url in urls:
        load(client, url)
    seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_begun
    print(json.dumps([len(urls), seconds, cpu_seconds, peak_bytes("self")]))


if __name__ == "__main__":
    main(*sys.argv[1:])
