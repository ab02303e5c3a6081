"""`python -m bench.worker`: one backend in one process, answering requests one at a time.

To try one by hand, start it with `--parent 0` and type requests, a JSON object a line, as listed in
`bench.process.loop`.
"""

from __future__ import annotations

import os

from bench.process import channel
from bench.process.loop import Loop, parser


def main() -> None:
    """Answer requests on standard input until it ends."""
    args = parser().parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    channel.serve(Loop(args).answer, args.parent)


if __name__ == "__main__":
    main()
