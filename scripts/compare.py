"""Train several models with several seeds and compare them: `yolo-coordbifpn compare` as a script.

    python scripts/compare.py models=yolo11n data=my.yaml epochs=50 imgsz=640 pretrained=yolo11n.pt

`yolo-coordbifpn compare --help` lists all options.
"""

import sys

from yolo_coordbifpn.commands import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
