"""Configuration: what a file, its bases and the command line say is what a run gets, and nothing else is accepted."""
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import aitod_layout as layout
from engine import config as configs
from errors import InputError
from models import build_model

ROOT = Path(__file__).parents[2]
FILES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.toml"))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_wins_over_its_base_and_the_command_line_over_both(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", "[train]\nepochs = 5\nlr = 0.5\nseed = 7\n")
    path = write(tmp_path, "child.toml", 'base = "base.toml"\n[train]\nlr = 0.25\nepochs = 6\n')
    config = configs.load(path, ["train.epochs=8", "train.epochs=9"])
    assert (config.train.seed, config.train.lr, config.train.epochs) == (7, 0.25, 9)


@pytest.mark.parametrize("argument, value", [
    ("data.root=some/folder", "some/folder"), ('data.root="x y"', "x y"), ("data.root=", ""),
])
def test_a_bare_word_on_the_command_line_is_text(tmp_path: Path, argument: str, value: str) -> None:
    assert configs.load(write(tmp_path, "a.toml", ""), [argument]).data.root == value


def test_classes_can_be_listed_with_commas_or_as_toml(tmp_path: Path) -> None:
    path = write(tmp_path, "a.toml", "")
    assert configs.load(path, ["data.classes=ship, vehicle"]).data.classes == ("ship", "vehicle")
    assert configs.load(path, ['data.classes=["ship", "vehicle"]']).data.classes == ("ship", "vehicle")


@pytest.mark.parametrize("text, overrides, names", [
    ("[train]\nepoch = 5", [], ("train.epoch", "'train.epochs'")),
    ("[trian]\nepochs = 5", [], ("'trian'", "'train'")),
    ("train = 5", [], ("'train'", "section")),
    ("model = 3", [], ("'model'", "section")),
    ("model = 'num_classes'", [], ("'model'", "section")),
    ("[train]\nepochs = 2.5", [], ("train.epochs", "2.5", "whole number")),
    ("[train]\nepochs = true", [], ("train.epochs", "whole number")),
    ("[train]\nlr = nan", [], ("train.lr", "finite")),
    ("[train]\nlr = -0.1", [], ("train.lr", "-0.1")),
    ("[train]\nbatch_size = 0", [], ("train.batch_size", "0")),
    ("[train]\nimage_size = 100", [], ("train.image_size", "96", "128")),
    ("[data]\ncache = 'tape'", [], ("data.cache", "tape", "none, disk, ram")),
    ("[data]\ncache_dir = ''", [], ("data.cache_dir", "empty")),
    ("[train]\nimage_size = 31", [], ("train.image_size", "32 or 64")),
    ("[augment]\nmulti_scale = 1", [], ("augment.multi_scale", "1.0", "0..0.9")),
    ("[train]\namp = 'fp8'", [], ("train.amp", "fp8", "bf16")),
    ("[model]\nscale = 'xx'", [], ("model.scale", "xx")),
    ("[model]\nnum_classes = 3", [], ("model.num_classes",)),
    ("[eval]\nnms = 1.5", [], ("eval.nms", "1.5")),
    ("[train", [], ("TOML",)),
    ("base = 5", [], ("base",)),
    ("base = 'absent.toml'", [], ("absent.toml",)),
    ("base = 'a.toml'", [], ("circle",)),
    ("", ["train.epochs"], ("'train.epochs'", "=")),
    ("", ["epochs=5"], ("'epochs=5'", "section.key")),
    ("", ["train.epochs=many"], ("train.epochs", "'many'")),
    ("", ["train.epohcs=3"], ("train.epohcs", "'train.epochs'")),
])
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, overrides: list[str], names: tuple[str, ...]) -> None:
    path = write(tmp_path, "a.toml", text)
    with pytest.raises(InputError) as caught:
        configs.load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


@pytest.mark.parametrize("file", FILES)
def test_every_config_in_the_repository_loads_and_survives_a_checkpoint(file: str) -> None:
    config = configs.load(ROOT / file)
    assert configs.from_dict(config.to_dict(), "checkpoint") == config


def test_the_paper_recipe() -> None:
    """800 x 800, 600 epochs, batch 16, SGD with momentum 0.937 and weight decay 0.0005 (paper, section IV-A)."""
    train = configs.load(ROOT / "configs/aitod/yolo11m.toml").train
    assert (train.image_size, train.epochs, train.batch_size) == (800, 600, 16)
    assert (train.momentum, train.weight_decay) == (0.937, 0.0005)


COUNTS = {      # with AI-TOD's eight classes
    "yolo11m": 20_059_176, "ablation_mdca": 20_553_992, "ablation_arb": 30_294_440, "ablation_pfdh": 21_339_925,
    "ablation_mdca_arb": 30_789_252, "ablation_arb_pfdh": 32_159_637, "ablation_mdca_pfdh": 21_924_397,
    "ablation_mdca_arb_pfdh": 32_159_657, "yolo11m_p2": 20_553_968, "rs_tinynet_m": 32_159_661,
}


def parameters(folder: str, classes: int) -> dict[str, int]:
    """Of the models in COUNTS, as the configs of a data set describe them."""
    models = {name: configs.load(ROOT / f"configs/{folder}/{name}.toml").model for name in COUNTS}
    with torch.device("meta"):
        return {name: build_model(replace(m, num_classes=classes)).reported_parameters() for name, m in models.items()}


def test_the_configs_for_table_iii_have_its_counts() -> None:
    assert parameters("aitod", 8) == COUNTS


def test_on_dior_the_same_networks_have_twelve_more_classes() -> None:
    """A class costs a 1x1 convolution with bias on each level: 3 levels of width 256, or with P2 4 levels of width 128."""
    found = parameters("dior", 20)
    assert found["yolo11m"] == 20_068_428
    for name, count in COUNTS.items():
        assert found[name] - count == 12 * (3 * 257 if name in ("yolo11m", "ablation_arb") else 4 * 129), name


def test_on_tinyrs4_the_same_networks_have_scale_n() -> None:
    for large in COUNTS:
        small = large.replace("11m", "11n").replace("tinynet_m", "tinynet_n")
        model = configs.load(ROOT / f"configs/tinyrs4/{small}.toml").model
        assert model == replace(configs.load(ROOT / f"configs/aitod/{large}.toml").model, scale="n"), small


def test_dior_is_trained_by_the_recipe_of_aitod() -> None:
    paper = tomllib.loads((ROOT / "eval/paper_tables.toml").read_text())
    files = {path.name for path in (ROOT / "configs/aitod").iterdir()}
    assert {path.name for path in (ROOT / "configs/dior").iterdir()} == files
    for name in sorted(files):
        dior, aitod = (configs.load(ROOT / "configs" / folder / name) for folder in ("dior", "aitod"))
        assert (dior.train, dior.model, dior.loss, dior.assigner) == (aitod.train, aitod.model, aitod.loss, aitod.assigner)
        assert list(dior.data.classes) == paper["dior"]["classes"] and dior.data.root == ""
        parts = ("train.txt", "val.txt") if name.endswith("_dev.toml") else ("trainval.txt", "")
        assert tuple(Path(getattr(dior.data, split)).name for split in ("train", "val", "test")) == (*parts, "test.txt")


def test_ai_tod_v2_is_ai_tod_with_other_annotations() -> None:
    """Both read the files that data.prepare_aitod writes, in one folder."""
    paper = tomllib.loads((ROOT / "eval/paper_tables.toml").read_text())
    names = {path.name for path in (ROOT / "configs/aitod_v2").iterdir()}
    assert names == {"base.toml", "yolo11m.toml", "yolo11m_dev.toml", "rs_tinynet_m_dev.toml",
                     *(f"rs_tinynet_{scale}.toml" for scale in "nsmlx")}
    for name in sorted(names):
        one, two = (configs.load(ROOT / "configs" / folder / name) for folder in ("aitod", "aitod_v2"))
        assert replace(two, data=one.data) == one
        assert list(two.data.classes) == paper["aitod"]["classes"] == list(layout.CLASSES)
        assert two.data.images == one.data.images == "images" and two.data.root == ""
        used = ("train", "val", "test") if name.endswith("_dev.toml") else ("trainval", "", "test")
        for version, data in ((1, one.data), (2, two.data)):
            files = [f"annotations/{layout.annotation_name(version, split)}" if split else "" for split in used]
            assert [data.train, data.val, data.test] == files


def test_objects_of_any_size_get_a_cell_on_tinyrs4() -> None:
    """The configs for tinyrs4 enlarge small boxes to twice the finest stride of their network."""
    for path in sorted((ROOT / "configs/tinyrs4").glob("*.toml")):
        config = configs.load(path)
        if not path.stem.endswith("base"):
            assert config.assigner.min_box_side == (8 if config.model.has_p2 else 16), path


def test_own_ranges_and_limits_come_from_toml_or_the_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, "own.toml", '[eval]\nlimits = [10, 1]\narea_ranges = ["t:0:256", "m:256:1e10"]\n')
    scoring = configs.load(file).eval.scoring()
    assert scoring.max_dets == (1, 10) and scoring.area_ranges == {"all": (0, 1e10), "t": (0, 256), "m": (256, 1e10)}
    assert not scoring.olrp
    scoring = configs.load(file, ["eval.limits=7", "eval.area_ranges=a:1:2,b:2:3", "eval.olrp=true"]).eval.scoring()
    assert scoring.max_dets == (7,) and list(scoring.area_ranges) == ["all", "a", "b"] and scoring.olrp
    assert configs.load(file, ["eval.limits=5,500"]).eval.limits == (5, 500)
    again = configs.from_dict(configs.load(file).to_dict(), "checkpoint")
    assert again == configs.load(file)
    for override, told in (("eval.limits=1,x", "is not a list of whole numbers"), ("eval.limits=[1.5]", "whole numbers"),
                           ("eval.area_ranges=[1]", "is not a list of texts"), ("eval.area_ranges=t:5:1", "not name:low:high"),
                           ("eval.limits=0", "must be different numbers from 1 on")):
        with pytest.raises(InputError, match=told):
            configs.load(file, [override])


def test_a_folder_may_have_any_name() -> None:
    for name in ("2024", "2024-01-01", "true", "1e5", "a b"):
        assert configs.load(ROOT / "configs/demo.toml", [f"data.root={name}"]).data.root == name


def test_a_config_that_is_not_there_gets_a_remedy_where_none_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^nowhere.toml: no such config. Name a TOML file\.$"):
        configs.load("nowhere.toml")


def test_the_list_of_settings_has_every_key_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (?:`(.*?)`)? \|(.*)\|$", (ROOT / "docs/settings.md").read_text(), re.M)
    plain = {name: dict(values) for name, values in configs.Config().to_dict().items()}
    del plain["model"]["num_classes"]                   # no key: the data set decides
    listed = {section: {} for section in plain}
    for section, name, text, meaning in rows:
        listed[section][name] = tomllib.loads(f"x = {text}")["x"] if text else None
        assert meaning.strip() or name == "epochs", name
    assert listed == plain


def test_what_a_config_says_of_its_parameters_is_true() -> None:
    said = 0
    for path in FILES:
        for count in re.findall(r"([\d,]+) parameters", (ROOT / path).read_text().partition("\n[")[0]):
            model = replace(configs.load(ROOT / path).model, num_classes=20 if "dior" in path else 8)
            with torch.device("meta"):
                assert f"{build_model(model).reported_parameters():,}" == count, path
            said += 1
    assert said > 20
