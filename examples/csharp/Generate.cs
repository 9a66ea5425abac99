// Runs an exported model from C# with ONNX Runtime (NuGet: Microsoft.ML.OnnxRuntime) and the operators' library: feeds
// token ids and prints the likeliest continuation, one line of ids.
//
//   dotnet run -- OUT.onnx LIBRARY|none COUNT ID...
//
// LIBRARY "none" runs the operators by the functions inside the model.
using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

/// <summary>A decoder and what it carries from step to step: keys and values that grow, states of fixed size.</summary>
public sealed class Decoder : IDisposable
{
    private const string Past = "past";
    private const string KeysAndValues = "past_key_values";
    private const string Present = "present";

    private readonly InferenceSession session;
    private readonly RunOptions runOptions = new RunOptions();
    private readonly List<string> pastNames;
    private readonly List<string> outputNames;
    private List<OrtValue> pasts;
    private int length;

    /// <summary>Loads a model; <paramref name="library"/> is the operators' library or "none".</summary>
    public Decoder(string model, string library)
    {
        using (var options = new SessionOptions())
        {
            if (library != "none")
            {
                options.RegisterCustomOpLibrary(library);
            }
            session = new InferenceSession(model, options);
        }
        pastNames = session.InputMetadata.Keys.Where(name => name.StartsWith(Past)).ToList();
        outputNames = pastNames.Select(PresentName).ToList();
        outputNames.Insert(0, "logits");
        pasts = pastNames.Select(name => Empty(session.InputMetadata[name])).ToList();
    }

    private static string PresentName(string past)
    {
        return Present + past.Substring((past.StartsWith(KeysAndValues) ? KeysAndValues : Past).Length);
    }

    // No tokens, or a state of zeros, in the input's own type: sizes that the model leaves open are those of tokens.
    private static OrtValue Empty(NodeMetadata input)
    {
        long[] shape = input.Dimensions.Select((size, axis) => axis == 0 ? 1 : Math.Max(size, 0L)).ToArray();
        OrtValue value = OrtValue.CreateAllocatedTensorValue(OrtAllocator.DefaultInstance, input.ElementDataType, shape);
        value.GetTensorMutableRawData().Clear();
        return value;
    }

    /// <summary>Appends tokens and returns the likeliest next one.</summary>
    public long Step(long[] tokens)
    {
        long[] positions = tokens.Select((_, i) => (long)length + i).ToArray();
        length += tokens.Length;
        var names = new List<string>(pastNames);
        var values = new List<OrtValue>(pasts);
        var rows = new Dictionary<string, long[]>
        {
            { "input_ids", tokens },
            { "attention_mask", Enumerable.Repeat(1L, length).ToArray() },
            { "position_ids", positions },
        };
        foreach (var row in rows.Where(row => session.InputMetadata.ContainsKey(row.Key)))
        {
            names.Add(row.Key);
            values.Add(OrtValue.CreateTensorValueFromMemory(row.Value, new long[] { 1, row.Value.Length }));
        }
        List<OrtValue> results = session.Run(runOptions, names, values, outputNames).ToList();
        values.ForEach(value => value.Dispose());
        pasts = results.Skip(1).ToList();
        using (OrtValue logits = results[0])
        {
            return Likeliest(logits);
        }
    }

    // Index of the largest value in the last row of logits [1, s, vocabulary].
    private static long Likeliest(OrtValue logits)
    {
        OrtTensorTypeAndShapeInfo info = logits.GetTensorTypeAndShape();
        int vocabulary = (int)info.Shape.Last();
        bool half = info.ElementDataType == TensorElementType.Float16;
        float[] row = half
            ? logits.GetTensorDataAsSpan<Float16>().ToArray().Select(value => value.ToFloat()).ToArray()
            : logits.GetTensorDataAsSpan<float>().ToArray();
        int first = row.Length - vocabulary;
        return Array.IndexOf(row, row.Skip(first).Max(), first) - first;
    }

    public void Dispose()
    {
        pasts.ForEach(value => value.Dispose());
        runOptions.Dispose();
        session.Dispose();
    }
}

public static class Program
{
    public static int Main(string[] arguments)
    {
        if (arguments.Length < 4)
        {
            Console.Error.WriteLine("usage: Generate OUT.onnx LIBRARY|none COUNT ID...");
            return 2;
        }
        try
        {
            using (var decoder = new Decoder(arguments[0], arguments[1]))
            {
                long[] tokens = arguments.Skip(3).Select(long.Parse).ToArray();
                var answer = new List<long>();
                for (int count = int.Parse(arguments[2]); count > 0; count--)
                {
                    answer.Add(decoder.Step(tokens));
                    tokens = new[] { answer.Last() };
                }
                Console.WriteLine(string.Join(" ", answer));
                return 0;
            }
        }
        catch (Exception error)
            when (error is OnnxRuntimeException || error is FormatException || error is OverflowException)
        {
            Console.Error.WriteLine("error: " + error.Message);
            return 1;
        }
    }
}
