# A disk whose host lies: nbdkit's python plugin (nbdkit-python-plugin(3)) over a raw image.
#
#   file=IMAGE    what is served, and written to
#   lies=FILE     JSON, a list of {"on", "at", "from", "do", ...}; see Lie in tests/vm/kit/served.rs
#   journal=FILE  gets the bytes of every write, so that what was written over is still there
import base64
import errno
import json
import os
import pathlib
import time

import nbdkit

API_VERSION = 2
parameters = {}


def config(key, value):
    parameters[key] = value


def get_ready():
    global image, journal, lies
    image = os.open(parameters["file"], os.O_RDWR)
    journal = os.open(parameters["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lies = json.loads(pathlib.Path(parameters["lies"]).read_text())
    for lie in lies:
        lie["seen"] = 0


def open(readonly):
    return None


def get_size(h):
    return os.fstat(image).st_size


def can_flush(h):
    return True


def flush(h, flags):
    pass


def tell(on, offset, count):
    for lie in lies:
        if lie["on"] != on or not offset <= lie["at"] < offset + count:
            continue
        lie["seen"] += 1
        if lie["seen"] < lie["from"]:
            continue
        if lie["do"] == "put":
            os.pwrite(image, base64.b64decode(lie["bytes"]), lie["to"])
        elif lie["do"] == "fail":
            nbdkit.set_error(errno.EIO)
            raise IOError("as told")
        elif lie["do"] == "stall":
            time.sleep(lie["seconds"])
        elif lie["do"] == "vanish":
            os._exit(0)
        elif lie["do"] == "hold" and lie["seen"] == lie["from"]:
            # A FIFO: the test opens its other end when it is ready, and closes it to let go.
            pathlib.Path(lie["fifo"]).read_bytes()


def pread(h, buffer, offset, flags):
    tell("read", offset, len(buffer))
    buffer[:] = os.pread(image, len(buffer), offset)


def pwrite(h, buffer, offset, flags):
    os.write(journal, buffer)
    os.pwrite(image, buffer, offset)
    tell("write", offset, len(buffer))
