"""What the lessons show: figures, pictures to drag through, live controls."""
