"""Other processes: DDP workers, spawned loaders, and what a user's own block needs to be known there."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from new_process import run_fresh, run_python
from torch import nn

from yolo_coordbifpn import register
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.registry.environment import VARIABLE, entries

BLOCKS = """
import torch
from torch import nn

class Scale(nn.Module):
    def __init__(self, c1, start=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, c1, 1, 1), start))

    def forward(self, x):
        return x * self.weight

class Join(nn.Module):
    def __init__(self, c1):
        super().__init__()

    def forward(self, xs):
        return torch.cat(xs, 1)

def twice(c1, args):
    return 2 * c1, [c1]

class Twice(nn.Module):
    def __init__(self, c1):
        super().__init__()

    def forward(self, x):
        return torch.cat((x, x), 1)
"""

ROWS = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, CoordAtt, []]
  - [-1, 1, Scale, [2.0]]
head:
  - [[-1, 2], 1, BiFPN_Concat, [1]]
  - [[5], 1, Detect, [nc]]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a user's module of blocks, a model YAML that names one of them, and a data set."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "code").mkdir()
    (folder / "code" / "my_blocks.py").write_text(BLOCKS)
    (folder / "mine.yaml").write_text(ROWS)
    write_scenes(folder / "scenes", train=8, val=4, size=64, seed=0).rename(folder / "scenes.yaml")
    return folder


def run(folder: Path, code: str, *words: str, **env: str) -> str:
    """Run a script in a new process with the user's module on Python's path; return its output, then its errors."""
    (folder / "script.py").write_text(code)
    search = os.pathsep.join(filter(None, (str(folder / "code"), os.environ.get("PYTHONPATH"))))
    env = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env}
    done = run_python(*words, "script.py", folder=folder, **env)
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


def test_a_fork_is_like_a_new_process(tmp_path: Path) -> None:
    """What these tests fork has loaded as little, and has the same path, arguments, folder and end, as a new Python."""
    code = (
        "import os, sys; print(sorted(x for x in sys.modules if 'ultralytics' in x or 'coordbifpn' in x));"
        "print(sys.argv, sys.path, os.getcwd(), os.environ['WORD'], __name__); sys.exit('the end')"
    )
    forked, fresh = (f("-c", code, "word", folder=tmp_path, WORD="x") for f in (run_python, run_fresh))
    assert forked.stdout.startswith("['yolo_coordbifpn_startup']")
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


WORKER = """
import os, subprocess, sys
import yolo_coordbifpn
from my_blocks import Scale
yolo_coordbifpn.register(Scale)
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import generate_ddp_file
options = dict(data="scenes.yaml", epochs=1, imgsz=64, batch=4, workers=0, device="cpu", plots=False)
trainer = DetectionTrainer(overrides=dict(model="mine.yaml", project=os.getcwd(), name="run", **options))
done = subprocess.run([sys.executable, generate_ddp_file(trainer)], capture_output=True, encoding="utf-8")
print(done.stdout[-3000:], done.stderr[-3000:])
from ultralytics import YOLO
model = YOLO(trainer.save_dir / "weights" / "best.pt").model
print([type(m).__name__ for m in model.model])
"""


@pytest.mark.slow
def test_the_hosts_worker_trains(place: Path) -> None:
    """The file that Ultralytics writes for each GPU trains a model with a user's block in a new interpreter."""
    pytest.importorskip("cloudpickle")  # the host's own need for several GPUs
    out = run(place, WORKER)
    assert out.splitlines()[-1] == "['Conv', 'Conv', 'Conv', 'CoordAtt', 'Scale', 'BiFPN_Concat', 'Detect']", out


RANKS = """
import os
import torch
import torch.distributed as dist
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
model = DetectionModel("yolo11n-coordatt-bifpn.yaml", nc=3, verbose=False)
model.args = get_cfg()
fusions = [m for m in model.modules() if type(m).__name__ == "BiFPN_Concat"]
ddp = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
for _ in range(2):
    batch = {"img": torch.rand(2, 3, 64, 64), "batch_idx": torch.arange(2.0), "cls": torch.zeros(2, 1),
             "bboxes": torch.full((2, 4), 0.5)}
    loss = ddp(batch)[0].sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
sums = torch.stack([p.detach().double().sum() for p in model.parameters()])
other = [torch.empty_like(sums) for _ in range(2)]
dist.all_gather(other, sums)
assert torch.equal(*other)
assert all((m.weight != 1).any() for m in fusions)
with open(f"rank{rank}.txt", "w") as file:
    file.write(f"{len(fusions)} fusions")
dist.barrier()  # gloo's threads may fail while the interpreter ends
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed training")
@pytest.mark.skipif(sys.platform == "win32", reason="torch.distributed.run needs libuv, which Windows wheels lack")
def test_two_ranks(place: Path) -> None:
    """With two ranks of `torch.distributed.run`, both know the blocks, and the parameters stay equal in training."""
    out = run(place, RANKS, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for rank in range(2):
        assert (place / f"rank{rank}.txt").is_file(), out
        assert (place / f"rank{rank}.txt").read_text() == "4 fusions"


SPAWN = """
import multiprocessing
import os
import torch

def look(model, results):
    names = [type(m).__name__ for m in model.model if type(m).__module__.startswith("yolo_coordbifpn")]
    results.put((names, model(torch.ones(1, 3, 64, 64))[0].sum().item()))

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from ultralytics import YOLO
    yolo = YOLO("yolo11n-coordatt-bifpn.yaml")
    results = multiprocessing.Queue()
    process = multiprocessing.Process(target=look, args=(yolo.model.eval(), results))
    process.start()
    names, total = results.get(timeout=120)
    process.join()
    assert abs(total - yolo.model(torch.ones(1, 3, 64, 64))[0].sum().item()) < 1e-2 * abs(total)
    options = dict(epochs=1, imgsz=64, batch=4, workers=1, device="cpu", plots=False, val=False, project=os.getcwd())
    yolo.train(data="scenes.yaml", **options)
    print(multiprocessing.get_start_method(), names)
"""


@pytest.mark.slow
def test_spawned_processes(place: Path) -> None:
    """With spawned processes, as on Windows and macOS, loaders work, and a model gives the same output in a child."""
    out = run(place, SPAWN)
    assert out.splitlines()[-1] == f"spawn {['CoordAtt', *['BiFPN_Concat'] * 4]}", out


MAKE_FPN = """
from pathlib import Path
import torch
import yaml
import yolo_coordbifpn
from ultralytics import YOLO
from ultralytics.nn import tasks
Path("copied.yaml").write_text(Path(tasks.check_yaml("yolo11-fpn.yaml")).read_text())
Path("yolo11n-dict.yaml").write_text(yaml.safe_dump(yolo_coordbifpn.graft("yolo11n.yaml", "none", "none", neck="fpn")))
for name in ("fpn", "se"):
    torch.save({"model": YOLO(f"yolo11n-{name}.yaml").model, "train_args": {"model": "x.yaml"}}, f"paper-{name}.pt")
"""

ALIGN = """
import torch
from ultralytics import YOLO
old = YOLO("yolo11n.yaml").model
for file in ("copied.yaml", "yolo11n-dict.yaml", "paper-fpn.pt", "paper-se.pt"):
    new = YOLO(file).load(old).model
    pairs = zip(new.model[-1].cv2.parameters(), old.model[-1].cv2.parameters())  # the head, by its last index
    print("aligned", new.yaml["head"] != old.yaml["head"] and all(torch.equal(a, b) for a, b in pairs))
"""


@pytest.mark.slow
def test_weights_are_aligned_in_another_process(place: Path) -> None:
    """A YAML file and a checkpoint carry the information that the model's layers have other indices."""
    out = run(place, MAKE_FPN)
    assert (place / "paper-se.pt").is_file(), out
    out = run(place, ALIGN)
    assert [x for x in out.splitlines() if x.startswith("aligned")] == ["aligned True"] * 4, out


# A user's own blocks -------------------------------------------------------------------------------------------------

BUILD = "from ultralytics import YOLO; print([type(m).__name__ for m in YOLO('mine.yaml').model.model])"


@pytest.mark.parametrize("value", ["my_blocks:Scale", "nothing:Other, my_blocks:Scale:same", "registers"])
def test_blocks_named_in_the_shell(place: Path, value: str) -> None:
    """The environment variable makes a user's block known to any command, without a script that registers it."""
    own = "yolo_coordbifpn.register(my_blocks.Scale, lambda c1, args: (c1, [c1, *args]))"
    (place / "code" / "registers.py").write_text(f"import yolo_coordbifpn, my_blocks\n{own}")
    out = run(place, BUILD, YOLO_COORDBIFPN_BLOCKS=value)
    assert "'Scale'" in out.splitlines()[-1], out


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", ""),
        ("nowhere.blocks:Scale", "names nowhere.blocks:Scale: ModuleNotFoundError: No module named 'nowhere'."),
        ("my_blocks:Scale:half", "names my_blocks:Scale:half: my_blocks has no half; its classes are Scale"),
        ("wrong", "names wrong: SyntaxError"),
    ],
)
def test_an_unknown_module_may_be_a_block_registered_elsewhere(place: Path, value: str, problem: str) -> None:
    """The host's kind of error stays; it says what a user's block needs and why a declared one is missing."""
    (place / "code" / "wrong.py").write_text("this is no Python")
    out = run(place, BUILD, YOLO_COORDBIFPN_BLOCKS=value)
    assert "KeyError: " in out
    assert "layer 4 (backbone row 4) [-1, 1, Scale, [2.0]]: there is no module Scale here" in out
    assert "YOLO_COORDBIFPN_BLOCKS=my_package.blocks:Scale" in out
    assert problem in out


class Plain(nn.Module):
    """A user's block."""

    def __init__(self, c1: int) -> None:
        super().__init__()


def rule(c1: int, args: list) -> tuple[int, list]:
    """Keep the channels."""
    return c1, [c1]


def test_registering_sets_the_variable_for_child_processes(own_blocks: None) -> None:
    """The variable lists each importable block and its rule once, and nothing that cannot be imported."""
    block = importlib.import_module(module := "test_processes").Plain  # as another process would find it
    os.environ[VARIABLE] = "others.blocks"
    for channels, entry in (
        ("sum", ":Plain:sum"),
        ("same", ":Plain"),
        (rule, ":Plain:rule"),
        (lambda c, a: rule(c, a), ""),
    ):
        register(block, channels)
        assert entries()[0] == "others.blocks"
        assert f"{module}{entry}" in entries()
    assert entries() == ["others.blocks", module]
    register(type("Made", (nn.Module,), {"__module__": "__main__"}))
    register(type("Local", (nn.Module,), {"__module__": module}))
    assert entries() == ["others.blocks", module]


# Safe loading, and loading without the plugin ------------------------------------------------------------------------

SAVE = """
import torch
import yaml
from ultralytics import YOLO
for name in ("CoordAtt", "SE", "CBAM", "Scale"):
    cfg = yaml.safe_load(open("mine.yaml"))
    cfg["backbone"][4][2:] = [name, []]
    yaml.safe_dump(cfg, open(f"{name}.yaml", "w"))
    torch.save({"model": YOLO(f"{name}.yaml").model, "train_args": {"model": f"{name}.yaml"}}, f"{name}.pt")
"""

LOAD = """
import os
import torch
from ultralytics import YOLO
for name in os.environ["NAMES"].split():
    model = YOLO(f"{name}.pt").model
    model(torch.rand(1, 3, 64, 64))
    again = type(model)(model.yaml, verbose=False)
    print(type(model.model[4]).__name__, len(again.model), flush=True)
"""


@pytest.fixture(scope="module")
def checkpoints(place: Path) -> Path:
    """Save a checkpoint with each kind of block."""
    out = run(place, SAVE, YOLO_COORDBIFPN_BLOCKS="my_blocks:Scale")
    assert (place / "Scale.pt").is_file(), out
    return place


@pytest.mark.slow
def test_safe_loading_knows_every_block(checkpoints: Path) -> None:
    """ULTRALYTICS_SAFE_LOAD=1 loads our blocks, those to compare with and a user's declared one, but no other class."""
    from ultralytics.nn import tasks

    if not hasattr(tasks, "_SafeLoad"):
        pytest.skip("this Ultralytics has no ULTRALYTICS_SAFE_LOAD")
    names = ("CBAM", "SE", "CoordAtt", "Scale")  # those to compare with first: they are not loaded yet
    env = {"ULTRALYTICS_SAFE_LOAD": "1", "NAMES": " ".join(names)}
    out = run(checkpoints, LOAD, YOLO_COORDBIFPN_BLOCKS="my_blocks:Scale", **env)
    assert out.splitlines() == [f"{x} 7" for x in names]
    out = run(checkpoints, LOAD, **{**env, "NAMES": "CBAM Scale"})
    assert out.startswith("CBAM 7")
    assert "Unsupported global: GLOBAL my_blocks.Scale" in out


@pytest.mark.slow
def test_a_checkpoint_where_the_plugin_is_switched_off(checkpoints: Path) -> None:
    """Opening a checkpoint with our blocks imports the package, which activates the plugin in that process."""
    out = run(checkpoints, LOAD, NAMES="CoordAtt SE", YOLO_COORDBIFPN_AUTOLOAD="0")
    assert out.splitlines() == ["CoordAtt 7", "SE 7"]


def test_a_checkpoint_without_the_package(checkpoints: Path) -> None:
    """If the package is not installed, Ultralytics names it as a requirement of the checkpoint."""
    gone = f"import sys\nsys.modules['yolo_coordbifpn'] = None\n{LOAD}"
    out = run(checkpoints, gone, NAMES="CoordAtt", YOLO_COORDBIFPN_AUTOLOAD="0", YOLO_AUTOINSTALL="false")
    assert "appears to require 'yolo_coordbifpn" in out
    assert "yolo_coordbifpn" in out.splitlines()[-1]


def test_model_yamls_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our reading of YAML refuses tags that would construct Python objects."""
    from yolo_coordbifpn import graft

    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text("nc: !!python/object/apply:os.system ['touch here']\nbackbone: []\nhead: []\n")
    with pytest.raises((yaml.YAMLError, ValueError)):
        graft(str(tmp_path / "evil.yaml"))
    assert not Path("here").exists()
