"""How fast the `scenes` data set is rendered, in CPU seconds on one thread.

Run:  python -m benchmarks.speed.scenes
Allowed: 1/150 s an image of 64×64, which is 300 images a second on two cores.
"""

import argparse
import statistics
import time

from gate2static.data.scenes import TRAIN
from gate2static.data.scenes.rooms import make_room


def main() -> None:
    """Print the median over rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--images", type=int, default=50, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        times = []
        for chunk in range(arguments.rounds):
            start = time.process_time()
            for index in range(chunk * arguments.images, (chunk + 1) * arguments.images):
                make_room(0, TRAIN, index, size)
            times.append((time.process_time() - start) / arguments.images)
        median = statistics.median(times)
        print(f"{size}×{size}: {1e3 * median:.2f} CPU ms an image, {1 / median:.0f} images a CPU second", flush=True)


if __name__ == "__main__":
    main()
