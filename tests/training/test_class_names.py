"""The names of an image folder's classes travel with the run, the preset and the command line."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from keras_meanflow import DiT, FlowMap, FlowMatching, open_model
from keras_meanflow.cli import main
from keras_meanflow.cli.options import labels_of
from keras_meanflow.data import ImageFolder
from keras_meanflow.training.run import train
from keras_meanflow.training.training import Training


def _train(folder):
    for label, name in enumerate(("zebra", "ant", "10", "9")):
        (folder / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 50 * label).save(folder / "images" / name / "a.png")
    network = DiT(image_size=8, channels=1, patch_size=4, width=8, depth=1, heads=1, num_classes=4)
    flow_map = FlowMap(network, FlowMatching())
    flow_map.compile("sgd", jit_compile=False)
    data = ImageFolder(folder / "images", 8, channels=1)
    settings = dict(batch_size=4, steps=1, sample_labels=np.arange(4))
    train(Training(flow_map=flow_map, data=data, **settings), folder / "run", verbose=0)


def test_class_names_travel_with_the_run_and_the_preset_and_name_labels(tmp_path):
    _train(tmp_path)
    flow_map, names = open_model(tmp_path / "run").flow_map, ("9", "10", "ant", "zebra")
    assert flow_map.class_names == names
    flow_map.save_to_preset(tmp_path / "preset")
    assert FlowMap.from_preset(tmp_path / "preset").class_names == names
    assert "Labels 0, 1, ...: 9, 10, ant, zebra." in (tmp_path / "preset" / "README.md").read_text()
    done = []
    for labels in ("zebra,ant,1", "3,2,1"):
        out = Path(tmp_path / f"{labels}.png")
        arguments = ["sample", tmp_path / "run", "--labels", labels, "-n", 3, "--out", out, "-q"]
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        done.append(out.read_bytes())
    assert done[0] == done[1]


def test_a_number_is_a_label_also_where_classes_have_numbers_as_names():
    names = ("9", "10", "ant-1", "zebra")
    assert labels_of("1,ant-1,0-1", 4, 4, names).tolist() == [1, 2, 0, 1]
