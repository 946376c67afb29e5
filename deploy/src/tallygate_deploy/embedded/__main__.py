"""The child process: `python -m tallygate_deploy.embedded --port 0 --ready-file F`."""

from __future__ import annotations

import argparse
import sys

from tallygate_deploy.embedded.identity import MAX_OUTPUT_TOKENS
from tallygate_deploy.embedded.inference import InferenceStartError, start
from tallygate_deploy.embedded.weights import WeightsMissing, weights_path
from tallygate_deploy.leash import add_leash_arguments, announce_ready, obey_the_leash, wait_for_release


def main() -> int:
    """Serve until a signal comes or, on a leash, until the parent lets go."""
    arguments = _arguments()
    obey_the_leash(end_with_stdin=arguments.end_with_stdin)
    try:
        server, url = start(
            weights_path(),
            port=arguments.port,
            slots=arguments.slots,
            threads=arguments.threads,
            max_output_tokens=arguments.max_output_tokens,
        )
    except (InferenceStartError, WeightsMissing) as error:
        print(f"embedded model: {error}", file=sys.stderr)
        return 1
    announce_ready(arguments.ready_file, {"base_url": f"{url}/v1"})
    wait_for_release(end_with_stdin=arguments.end_with_stdin)
    del server
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tallygate_deploy.embedded", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--slots", type=int, default=4, help="requests answered at the same time")
    parser.add_argument("--threads", type=int, default=2, help="compute threads")
    parser.add_argument("--max-output-tokens", type=int, default=MAX_OUTPUT_TOKENS, help="for requests without a limit")
    add_leash_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
