"""How quickly the notebook's loop answers: ``python tests/helpers/latency.py``.

Prints what `Cluster.infer` costs over the ranks' own step, what planning anew on running engines
takes, and what the explorer takes to answer a slider; medians.
"""

import time
from statistics import median

import spnb

ROUNDS = 7


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    job = spnb.Job("resnet", image_size=353, batch_size=1, resize=True)
    plan = spnb.plan(job)
    with spnb.Cluster(plan, progress=False) as cluster:
        image = plan.open("retina")
        cluster.infer(image)  # the image becomes resident, the ranks warm
        runs = [cluster.infer(image).seconds for _ in range(ROUNDS)]
        step, seen = (median(run[name] for run in runs) for name in ("step", "infer"))
        bound = 0.05 * step + 0.02
        over = median(run["infer"] - run["step"] for run in runs)
        print(
            f"infer on a resident image: step {step:.3f} s, seen {seen:.3f} s: {over * 1e3:.0f} ms"
            f" over it; 5 % + 20 ms are {bound * 1e3:.0f} ms"
        )
        splits = [{"slice_method": m} for m in ("vertical", "horizontal", "square")] * 2
        again = [
            timed(lambda split=split: cluster.load(spnb.plan(job.replace(**split))))
            for split in splits
        ]
        print(f"plan anew and load, ResNet-110 on 5 ranks: {median(again):.2f} s")
    view = spnb.explore(job.replace(image_size=1411), "retina")

    def move(tiles):
        view.tiles.value = tiles

    answers = [timed(lambda n=n: move(n)) for n in (6, 9, 4, 12, 8, 2, 4)]
    print(
        f"the explorer answers a slider, ResNet-110: {median(answers):.2f} s,"
        f" at most {max(answers):.2f} s"
    )


if __name__ == "__main__":
    main()
