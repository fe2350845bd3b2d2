"""Distillation: teachers, the texts they write, what they think of a student's, and students."""
