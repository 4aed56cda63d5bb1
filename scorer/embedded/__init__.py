"""A broker and a Redis for one machine and one sitting: child processes that end with whoever started them."""
