"""Fetches one file over HTTP(S), on a device; read on standard input by ``python3 -``.

Arguments: file with authorities or nothing; then path to write, URL and SHA-256 of each choice, of
which the first that there is counts. Ends with status 1 and one line when it fails; nothing stays.
"""

import hashlib
import os
import ssl
import sys
import urllib.error
import urllib.request

_BLOCK = 1 << 20
_SECONDS = 60


def fetch(path, expected, authorities, url):
    """Write what is at a URL to a path.

    :raises OSError: it can't be had, ``FileNotFoundError`` if it is not there.
    :raises ValueError: it is another file.
    """
    context = ssl.create_default_context(cafile=authorities or None)
    digest = hashlib.sha256()
    try:
        answer = urllib.request.urlopen(url, timeout=_SECONDS, context=context)  # noqa: S310
        with answer, open(path, "wb") as file:
            for block in iter(lambda: answer.read(_BLOCK), b""):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(f"{url}: it is not there") from None
        raise OSError(f"{url}: the store answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url}: {error.reason}") from None
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{url}: expected the checksum {expected}, got {digest.hexdigest()}:"
            " nothing was replaced"
        )


def main(authorities, *choices):
    """Fetch the first of some files that there is."""
    problem = ""
    for path, url, expected in zip(choices[::3], choices[1::3], choices[2::3]):
        os.umask(0o022)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.umask(0o077)
        try:
            fetch(path, expected, authorities, url)
            return 0
        except FileNotFoundError as error:
            problem = str(error)
        except (OSError, ValueError) as error:
            problem = str(error)
            if os.path.exists(path):
                os.unlink(path)
            break
    print(problem, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
