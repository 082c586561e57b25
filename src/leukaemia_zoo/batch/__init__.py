"""More cells than one sitting or one machine judges: tables of them, parts, clusters."""
