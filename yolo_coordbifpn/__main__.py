"""`python -m yolo_coordbifpn` is `yolo-coordbifpn`."""

from .commands import main

if __name__ == "__main__":
    raise SystemExit(main())
