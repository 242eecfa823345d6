import sys

from pred_server.cli import main

sys.exit(main())
