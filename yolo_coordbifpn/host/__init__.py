"""What the package reads from Ultralytics: models, arguments, data, costs, the machine. Only `patches` changes it."""
