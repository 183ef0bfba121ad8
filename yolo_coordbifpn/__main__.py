"""`python -m yolo_coordbifpn` runs the command `yolo-coordbifpn`."""

from .commands import main

if __name__ == "__main__":
    raise SystemExit(main())
